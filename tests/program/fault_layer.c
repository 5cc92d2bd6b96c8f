/* A layer between the program and the C library that makes calls on files of one folder fail: those named by the first
 * word of the file FAULT_FILE (r: reads, w: all that changes something), with the error number that is its second word,
 * for as long as that file is there. The folder is FAULT_UNDER. What is not of that folder goes through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether a call of this kind on this path is to fail; errno is set then. */
static int fails(const char *path, char kind) {
    const char *under = getenv("FAULT_UNDER"), *file = getenv("FAULT_FILE");
    if (!under || !file || !path || strncmp(path, under, strlen(under)) != 0) return 0;
    int saved = errno;
    char text[32] = {0};
    long fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        errno = saved;
        return 0;
    }
    long got = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    errno = saved;
    char *number = got > 0 ? strchr(text, ' ') : NULL;
    char *named = strchr(text, kind);
    if (!number || !named || named > number) return 0;
    errno = atoi(number + 1);
    return 1;
}

static int file_fails(int fd, char kind) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(path, kind);
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                         \
        if (flags & O_CREAT && fails(path, 'w')) return -1;                   \
        return NEXT(name)(path, flags, mode);                                 \
    }
OPEN(open)
OPEN(open64)

#define ON_FILE(type, name, kind, params, args)                               \
    type name params {                                                        \
        if (file_fails(fd, kind)) return -1;                                  \
        return NEXT(name) args;                                               \
    }
ON_FILE(ssize_t, read, 'r', (int fd, void *to, size_t n), (fd, to, n))
ON_FILE(ssize_t, pread, 'r', (int fd, void *to, size_t n, off_t at), (fd, to, n, at))
ON_FILE(ssize_t, pread64, 'r', (int fd, void *to, size_t n, off64_t at), (fd, to, n, at))
ON_FILE(ssize_t, write, 'w', (int fd, const void *from, size_t n), (fd, from, n))
ON_FILE(ssize_t, pwrite, 'w', (int fd, const void *from, size_t n, off_t at), (fd, from, n, at))
ON_FILE(ssize_t, pwrite64, 'w', (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at))
ON_FILE(int, ftruncate, 'w', (int fd, off_t n), (fd, n))
ON_FILE(int, ftruncate64, 'w', (int fd, off64_t n), (fd, n))
ON_FILE(int, fsync, 'w', (int fd), (fd))
ON_FILE(int, fdatasync, 'w', (int fd), (fd))

int rename(const char *from, const char *to) {
    if (fails(from, 'w')) return -1;
    return NEXT(rename)(from, to);
}

int unlink(const char *path) {
    if (fails(path, 'w')) return -1;
    return NEXT(unlink)(path);
}
