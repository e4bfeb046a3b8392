/* Preloaded into a process, makes writes to some of its files fail as those of a bad disk do.

   FAULT_FOLDER  the files in there are meant, but .txt
   FAULT_KIND    eio: one write fails once; short: one write puts down half of what was asked; full: from one write on
                 there is no room beyond what files have reserved; kill: the process is killed before one write; count:
                 nothing fails
   FAULT_NTH     which write, counted from 1 over all files that are meant
   FAULT_REPORT  a file that is given the number of such writes when the process ends */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static long counted;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int is_meant(int descriptor)
{
    const char *folder = getenv("FAULT_FOLDER");
    char link[64], path[4096];
    ssize_t length;

    if (folder == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(folder) + 4)
        return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0 && path[strlen(folder)] == '/'
           && strcmp(path + length - 4, ".txt") != 0;
}

/* Returns how many bytes may be written, or -1 with errno set. */
static ssize_t allowed(int descriptor, size_t size, off_t end)
{
    const char *kind = getenv("FAULT_KIND"), *nth = getenv("FAULT_NTH");
    long which = nth == NULL ? 0 : atol(nth), now;
    struct stat found;

    if (kind == NULL || !is_meant(descriptor))
        return (ssize_t)size;
    pthread_mutex_lock(&mutex);
    now = ++counted;
    pthread_mutex_unlock(&mutex);
    if (strcmp(kind, "eio") == 0 && now == which) {
        errno = EIO;
        return -1;
    }
    if (strcmp(kind, "kill") == 0 && now == which)
        kill(getpid(), SIGKILL);
    if (strcmp(kind, "short") == 0 && now == which && size > 1)
        return (ssize_t)(size / 2);
    if (strcmp(kind, "full") == 0 && now >= which && fstat(descriptor, &found) == 0 && end > found.st_size) {
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)size;
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    ssize_t some = allowed(descriptor, size, at + (off_t)size);

    if (real == NULL)
        real = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return some < 0 ? some : real(descriptor, data, (size_t)some, at);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at)
{
    return pwrite(descriptor, data, size, at);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    off_t at = lseek(descriptor, 0, SEEK_CUR);
    ssize_t some = allowed(descriptor, size, (at < 0 ? 0 : at) + (off_t)size);

    if (real == NULL)
        real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return some < 0 ? some : real(descriptor, data, (size_t)some);
}

ssize_t sendfile(int descriptor, int source, off_t *at, size_t size)
{
    static ssize_t (*real)(int, int, off_t *, size_t);
    struct stat found;
    off_t place = lseek(descriptor, 0, SEEK_CUR);
    ssize_t some;

    if (size > 0x7ffff000) /* callers ask for more than there is */
        size = 0x7ffff000;
    if (fstat(source, &found) == 0 && (off_t)size > found.st_size)
        size = (size_t)found.st_size;
    some = allowed(descriptor, size, (place < 0 ? 0 : place) + (off_t)size);
    if (real == NULL)
        real = (ssize_t (*)(int, int, off_t *, size_t))dlsym(RTLD_NEXT, "sendfile");
    return some < 0 ? some : real(descriptor, source, at, (size_t)some);
}

ssize_t sendfile64(int descriptor, int source, off64_t *at, size_t size)
{
    return sendfile(descriptor, source, at, size);
}

/* Room is asked for as a write is: it can fail, and it counts. */
int posix_fallocate(int descriptor, off_t at, off_t size)
{
    static int (*real)(int, off_t, off_t);

    if (allowed(descriptor, (size_t)size, at + size) < 0)
        return errno;
    if (real == NULL)
        real = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate");
    return real(descriptor, at, size);
}

int posix_fallocate64(int descriptor, off64_t at, off64_t size)
{
    return posix_fallocate(descriptor, at, size);
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("FAULT_REPORT");
    FILE *file = path == NULL ? NULL : fopen(path, "w");

    if (file != NULL) {
        fprintf(file, "%ld\n", counted);
        fclose(file);
    }
}
