// Preloaded: a chosen file-system call under a folder fails with an error, or ends the process as kill -9 would.
//
// Calls that change files are counted from faults_arm() on, where they are made under the folder that it was given.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_WITHIN = -2 };  // instead of an errno; within: half of what was to be written is

static char under[PATH_MAX];
static long chosen = 0, count = 0;
static int how = 0;

#define REAL(name) \
  static __typeof__(&name) real = NULL; \
  if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

// After this, call number nth (1, 2, ...) under the folder goes wrong; 0: none, they are only counted.
void faults_arm(const char* folder, long nth, int error) {
  snprintf(under, sizeof under, "%s", folder);
  chosen = nth;
  how = error;
  count = 0;
}

long faults_count(void) { return count; }

static int is_under(const char* path) { return under[0] != 0 && strncmp(path, under, strlen(under)) == 0; }

static int fd_is_under(int fd) {
  char link[64], path[PATH_MAX];
  if (under[0] == 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_under(path);
}

static int at_is_under(int fd, const char* path) {
  return path[0] == '/' || fd == AT_FDCWD ? is_under(path) : fd_is_under(fd);
}

// Whether this call is the chosen one and must fail; errno is set. Within: the caller may do half of it first.
static int fails(int concerned, int* within) {
  *within = 0;
  if (!concerned || ++count != chosen) return 0;
  if (how == KILL_WITHIN) {
    *within = 1;
    return 1;
  }
  if (how == KILL_BEFORE) kill(getpid(), SIGKILL);
  errno = how;
  return 1;
}

#define GUARD(concerned, failed) \
  int within; \
  if (fails(concerned, &within)) { \
    if (within) kill(getpid(), SIGKILL); \
    return failed; \
  }

ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  int within;
  if (fails(fd_is_under(fd), &within)) {
    if (within) {
      (void)!real(fd, data, size / 2);
      kill(getpid(), SIGKILL);
    }
    return -1;
  }
  return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec* parts, int n) {
  REAL(writev);
  GUARD(fd_is_under(fd), -1)
  return real(fd, parts, n);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  REAL(pwrite);
  GUARD(fd_is_under(fd), -1)
  return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  REAL(pwrite64);
  GUARD(fd_is_under(fd), -1)
  return real(fd, data, size, at);
}

size_t fwrite(const void* data, size_t size, size_t n, FILE* file) {
  REAL(fwrite);
  int within;
  if (fails(fd_is_under(fileno(file)), &within)) {
    if (within) {
      real(data, size, n / 2, file);
      fflush(file);
      kill(getpid(), SIGKILL);
    }
    return 0;
  }
  return real(data, size, n, file);
}

static int changes(int flags) { return (flags & O_CREAT) != 0 || (flags & O_ACCMODE) != O_RDONLY; }

#define OPEN(name) \
  int name(const char* path, int flags, ...) { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    GUARD(changes(flags) && is_under(path), -1) \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int at, const char* path, int flags, ...) { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    GUARD(changes(flags) && at_is_under(at, path), -1) \
    return real(at, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(name) \
  int name(int fd) { \
    REAL(name); \
    GUARD(fd_is_under(fd), -1) \
    return real(fd); \
  }
ON_FD(fsync)
ON_FD(fdatasync)

#define RESIZE(name, type) \
  int name(int fd, type size) { \
    REAL(name); \
    GUARD(fd_is_under(fd), -1) \
    return real(fd, size); \
  }
RESIZE(ftruncate, off_t)
RESIZE(ftruncate64, off64_t)

int posix_fallocate(int fd, off_t at, off_t size) {
  REAL(posix_fallocate);
  GUARD(fd_is_under(fd), errno)
  return real(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
  REAL(posix_fallocate64);
  GUARD(fd_is_under(fd), errno)
  return real(fd, at, size);
}

#define ON_PATH(name) \
  int name(const char* path) { \
    REAL(name); \
    GUARD(is_under(path), -1) \
    return real(path); \
  }
ON_PATH(unlink)
ON_PATH(rmdir)

int unlinkat(int at, const char* path, int flags) {
  REAL(unlinkat);
  GUARD(at_is_under(at, path), -1)
  return real(at, path, flags);
}

int mkdir(const char* path, mode_t mode) {
  REAL(mkdir);
  GUARD(is_under(path), -1)
  return real(path, mode);
}

int rename(const char* from, const char* to) {
  REAL(rename);
  GUARD(is_under(to), -1)
  return real(from, to);
}

int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) {
  REAL(renameat2);
  GUARD(at_is_under(to_at, to), -1)
  return real(from_at, from, to_at, to, flags);
}

int symlink(const char* content, const char* path) {
  REAL(symlink);
  GUARD(is_under(path), -1)
  return real(content, path);
}
