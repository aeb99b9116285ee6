/* cancel.h - pthread_cancel() ends no call into the library.
 *
 * Many calls into the system are cancellation points: open, close, read, fallocate, printing.
 * malloc and free are not. A thread that ended inside one of the library's functions would leave a
 * claimed slot, an open descriptor or an unprinted message. So code that makes such calls first
 * puts cancellation off; a request that comes meanwhile is acted on at the program's next
 * cancellation point.
 *
 *     int former = cancel_put_off();
 *     ...
 *     cancel_restore(former);
 */
#ifndef DVSM_SYNC_CANCEL_H
#define DVSM_SYNC_CANCEL_H

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
