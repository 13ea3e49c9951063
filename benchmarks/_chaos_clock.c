/* The wall clock of one process tree, set off by what lies in a shared file; the monotonic clock stays. Built by _chaos_clock.py, loaded by
   LD_PRELOAD. (libfaketime 0.9.10 can't do it: with its monotonic clock left alone Python's time.sleep fails, without it waits hang.) */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static const volatile long long zero = 0;
static const volatile long long *seconds = &zero;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) seconds = found;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (syscall(SYS_clock_gettime, clock, now)) return -1;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *seconds;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* Who waits until a time of day asked this clock for it; the kernel knows the other one. Monotonic times are small: seconds since the boot. */
static struct timespec kernels(const struct timespec *until) {
    struct timespec out = *until;
    if (out.tv_sec > 1000000000LL || out.tv_sec < 0) out.tv_sec -= *seconds;
    if (out.tv_sec < 0) out.tv_sec = 0;
    return out;
}

/* Of pthread_cond_timedwait there is an older one too, for objects of another form, and dlsym may well find that. */
static void *real_of(const char *name) {
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
    return found ? found : dlsym(RTLD_NEXT, name);
}

#define REAL(name) ((__typeof__(&name))real_of(#name))

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_timedwait) real;
    struct timespec own = kernels(until);
    if (!real) real = REAL(pthread_cond_timedwait);
    return real(cond, mutex, &own);
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    static __typeof__(&pthread_cond_clockwait) real;
    struct timespec own = kernels(until);
    if (!real) real = REAL(pthread_cond_clockwait);
    return real(cond, mutex, clock, &own);
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&cnd_timedwait) real;
    struct timespec own = kernels(until);
    if (!real) real = REAL(cnd_timedwait);
    return real(cond, mutex, &own);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static __typeof__(&sem_timedwait) real;
    struct timespec own = kernels(until);
    if (!real) real = REAL(sem_timedwait);
    return real(semaphore, &own);
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until) {
    static __typeof__(&sem_clockwait) real;
    struct timespec own = kernels(until);
    if (!real) real = REAL(sem_clockwait);
    return real(semaphore, clock, &own);
}
