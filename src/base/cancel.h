/* cancel.h - nothing that the library does is ended by pthread_cancel().
 *
 * Many calls into the system are cancellation points: open, close, read, fallocate, printing.
 * malloc and free are none, and a thread that ended in one of the library's would leave a claimed
 * slot, a descriptor, a message that nobody sees. So whatever makes such calls first puts
 * cancellation off; a request that comes meanwhile is acted on at the program's next cancellation
 * point.
 *
 *     int former = cancel_put_off();
 *     ...
 *     cancel_restore(former);
 */
#ifndef DVSM_BASE_CANCEL_H
#define DVSM_BASE_CANCEL_H

#include <pthread.h>

static inline int cancel_put_off(void)
{
    int former = PTHREAD_CANCEL_ENABLE;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &former);
    return former;
}

static inline void cancel_restore(int former)
{
    pthread_setcancelstate(former, NULL);
}

#endif
