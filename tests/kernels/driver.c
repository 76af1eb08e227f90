/* Calls functions of a library of kernels as its input says, each with memory of exactly the size it may use.

   Built by driver.py, which writes calls.h: a case for each function. Input: for each call the function's
   number, a word on where memory lies, and its arguments; output: the result, then the bytes behind each pointer.
   Without a sanitizer a buffer ends where memory ends, or begins where it begins, so that an access behind or before it
   is a segmentation fault, also one that a sanitizer does not see, such as that of a tile. */

#define _DEFAULT_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 16, NOTHING = 0, BUFFER = 1, INTEGER = 2, REAL = 3 };

typedef struct {
    int64_t kind, integer, size, item;
    double real;
    char *pointer, *start, *whole; /* what is passed, where the buffer begins, what was allocated */
    size_t length;
} Argument;

static void *library;

static void fail(const char *why)
{
    fprintf(stderr, "driver: %s\n", why);
    exit(3);
}

static void *function(const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL)
        fail(dlerror());
    return found;
}

static int64_t called(int64_t which, const Argument *a)
{
    switch (which) {
#include "calls.h"
    }
    fail("no such function");
    return 0;
}

static void get(void *to, size_t size)
{
    if (size > 0 && fread(to, size, 1, stdin) != 1)
        fail("the input ends within a call");
}

static int64_t number(void)
{
    int64_t found;
    get(&found, sizeof found);
    return found;
}

static void allocate(Argument *a, int at_end)
{
#ifdef __SANITIZE_ADDRESS__
    size_t shift = at_end ? (size_t)a->item : 0; /* a start that is aligned for its values only */
    a->whole = malloc((size_t)a->size + shift);
    a->start = a->whole + shift;
    if (a->whole == NULL)
        fail("no memory");
#else
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = ((size_t)a->size + page - 1) / page * page;
    a->length = used + 2 * page;
    a->whole = mmap(NULL, a->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->whole == MAP_FAILED || mprotect(a->whole + page, used, PROT_READ | PROT_WRITE) != 0)
        fail("no memory");
    a->start = a->whole + page + (at_end ? used - (size_t)a->size : 0);
#endif
}

static void release(Argument *a)
{
#ifdef __SANITIZE_ADDRESS__
    free(a->whole);
#else
    munmap(a->whole, a->length);
#endif
}

int main(int count, char **arguments)
{
    int64_t which;
    library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (library == NULL)
        fail(count == 2 ? dlerror() : "usage: driver LIBRARY");
    for (int64_t call = 0; fread(&which, sizeof which, 1, stdin) == 1; call++) {
        Argument a[MOST] = {{0}};
        int64_t at_end = number(), of = number();
        if (of > MOST)
            fail("too many arguments");
        for (Argument *each = a; each < a + of; each++)
            switch (each->kind = number()) {
            case BUFFER:
                each->size = number();
                each->item = number();
                int64_t inside = number();
                allocate(each, (int)at_end);
                each->pointer = each->start + inside;
                get(each->start, (size_t)each->size);
                break;
            case INTEGER:
                each->integer = number();
                break;
            case REAL:
                get(&each->real, sizeof each->real);
            }
        fprintf(stderr, "call %d of function %d\n", (int)call, (int)which);
        int64_t result = called(which, a);
        fwrite(&result, sizeof result, 1, stdout);
        for (Argument *each = a; each < a + of; each++)
            if (each->kind == BUFFER) {
                fwrite(each->start, 1, (size_t)each->size, stdout);
                release(each);
            }
    }
    return 0;
}
