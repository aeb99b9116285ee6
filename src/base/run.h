/* run.h - a piece of address space on its way from one owner to another. */
#ifndef DVSM_BASE_RUN_H
#define DVSM_BASE_RUN_H

#include <stddef.h>

struct run {
    char *start;
    size_t bytes; /* 0: none */
};

#endif
