/* support/guarded_backend.h - memfd memory that cannot be touched once it was released.
 *
 * Reading or writing what was given back, before it is committed again, ends in SIGSEGV. What was
 * never committed is not guarded. It serves tests of one process only: protection is not shared.
 */
#ifndef DVSM_TESTS_SUPPORT_GUARDED_BACKEND_H
#define DVSM_TESTS_SUPPORT_GUARDED_BACKEND_H

#include "dvsm/backend.h"

extern const dvsm_backend guarded_backend;

#endif
