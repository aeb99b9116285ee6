/* check.h - the form every module's full check has.
 *
 * A `*_check()` walks all that a module owns and counts each invariant that does not hold, with a
 * line for each on `report` where one is given. It changes nothing and trusts nothing: a damaged
 * structure gives violations, never a crash or an endless loop.
 *
 * NB: there is one limit, because memory has gaps where nothing may be committed. Chunks, sizes and
 * links are looked at only inside a segment. But only a segment's record says where the segment is,
 * and only the record of the next newer segment says where that record is. So an overwritten record
 * may lead the check anywhere between the arena's lowest and highest segment. dvsm/backend.h says
 * what happens in a gap.
 */
#ifndef DVSM_BASE_CHECK_H
#define DVSM_BASE_CHECK_H

#include <stdbool.h>
#include <stdio.h>

#include "base/compiler.h"

struct check {
    FILE *report; /* NULL: only count */
    int violations;
};

/* Counts a violation unless `holds`; the message says what should have held. Returns `holds`. */
bool check_that(struct check *check, bool holds, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
