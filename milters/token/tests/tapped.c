/* A vendor's PKCS#11 library that misbehaves when told to: SoftHSM's, with two functions of ours before its own.
 * In the directory PEC_TAP: while `hang` is there C_Sign does not return, while `crash` is there it ends the process; `logins`
 * gets a byte for each C_Login, and while `slow` is there that takes a while. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef struct { unsigned char version[2]; void *function[68]; } CK_FUNCTION_LIST;
enum { LOGIN = 18, SIGN = 43 }; /* their places in the list, C_Initialize being 0 */

static CK_FUNCTION_LIST list;
static CK_ULONG (*login)(CK_ULONG, CK_ULONG, unsigned char *, CK_ULONG);
static CK_ULONG (*sign)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *);

static const char *in_tap(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("PEC_TAP"), name);
    return path;
}

static CK_ULONG tapped_login(CK_ULONG session, CK_ULONG user, unsigned char *pin, CK_ULONG length) {
    int file = open(in_tap("logins"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(file, "1", 1) != 1) abort();
    close(file);
    if (access(in_tap("slow"), F_OK) == 0) usleep(300000);
    return login(session, user, pin, length);
}

static CK_ULONG tapped_sign(CK_ULONG session, unsigned char *data, CK_ULONG length, unsigned char *signature, CK_ULONG *room) {
    while (access(in_tap("hang"), F_OK) == 0) usleep(10000);
    if (access(in_tap("crash"), F_OK) == 0) abort();
    return sign(session, data, length, signature, room);
}

CK_ULONG C_GetFunctionList(CK_FUNCTION_LIST **out) {
    void *library = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW);
    CK_ULONG (*get)(CK_FUNCTION_LIST **) = (CK_ULONG (*)(CK_FUNCTION_LIST **))dlsym(library, "C_GetFunctionList");
    CK_FUNCTION_LIST *original;
    CK_ULONG result = get(&original);
    memcpy(&list, original, sizeof list);
    login = list.function[LOGIN];
    sign = list.function[SIGN];
    list.function[LOGIN] = tapped_login;
    list.function[SIGN] = tapped_sign;
    *out = &list;
    return result;
}
