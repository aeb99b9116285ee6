/* app.c - the smallest program that needs the library: a child allocates, its parent reads and
 * frees. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dvsm/dvsm.h>

int main(void)
{
    char **slot = dvsm_malloc(sizeof *slot);
    int status;

    if (slot == NULL)
        return 1;
    *slot = NULL;
    pid_t child = fork();
    if (child == 0) {
        *slot = dvsm_strdup("from the child");
        _exit(*slot == NULL);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return 2;
    if (strcmp(*slot, "from the child") != 0)
        return 3;
    dvsm_free(*slot);
    dvsm_free(slot);
    return dvsm_check(dvsm_heap_default(), stderr) != 0;
}
