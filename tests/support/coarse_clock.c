/* For LD_PRELOAD: clocks that move ten times a second. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0)
        time->tv_nsec -= time->tv_nsec % 100000000;
    return result;
}
