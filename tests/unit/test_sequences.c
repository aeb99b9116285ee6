/* test_sequences.c - the restartable sequences of libdvsm.so: their descriptors, compared with the
 * machine code (as objdump prints it).
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <elf.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/lane.h"

enum { SIGNATURE = 0x53053053, SEQUENCES_MOST = 100, INSTRUCTIONS_MOST = (100000 * 4) };

struct descriptor { /* the kernel's struct rseq_cs */
    uint32_t version, flags;
    uint64_t start, length, abort;
};

struct instruction {
    uint64_t address;
    char text[80];
};

/* The library, read as a file. */
static struct {
    const char *path;
    const unsigned char *bytes;
    const Elf64_Shdr *sections;
    const char *section_names;
    size_t section_count;
    struct descriptor descriptor[SEQUENCES_MOST];
    uint64_t descriptors_at;
    size_t descriptors;
    struct instruction *instruction;
    size_t instructions;
} library;

static const Elf64_Shdr *section_named(const char *name)
{
    for (size_t i = 0; i < library.section_count; i++)
        if (strcmp(library.section_names + library.sections[i].sh_name, name) == 0)
            return &library.sections[i];
    return NULL;
}

static bool lies_in(const Elf64_Shdr *section, uint64_t address)
{
    return address - section->sh_addr < section->sh_size;
}

/* ---- reading it */

/* Puts the addresses into the section that the loader will write there, less the base. */
static void relocate(const Elf64_Shdr *section)
{
    const Elf64_Shdr *dynamic = section_named(".rela.dyn");
    const Elf64_Rela *rela = (const void *)(library.bytes + dynamic->sh_offset);

    for (size_t i = 0; i < dynamic->sh_size / sizeof *rela; i++)
        if (lies_in(section, rela[i].r_offset)) {
            uint64_t value = (uint64_t)rela[i].r_addend;

            assert_int_equal(ELF64_R_TYPE(rela[i].r_info), R_X86_64_RELATIVE);
            memcpy((char *)library.descriptor + (rela[i].r_offset - section->sh_addr), &value,
                   sizeof value);
        }
}

static void read_descriptors(void)
{
    const Elf64_Ehdr *header = (const void *)library.bytes;

    library.sections = (const void *)(library.bytes + header->e_shoff);
    library.section_count = header->e_shnum;
    library.section_names =
        (const char *)library.bytes + library.sections[header->e_shstrndx].sh_offset;
    const Elf64_Shdr *section = section_named("__rseq_cs");
    assert_non_null(section);
    assert_int_equal(section->sh_size % sizeof(struct descriptor), 0);
    assert_int_equal(section->sh_addr % 32, 0);
    library.descriptors = section->sh_size / sizeof(struct descriptor);
    library.descriptors_at = section->sh_addr;
    assert_in_range(library.descriptors, 5, SEQUENCES_MOST);
    memcpy(library.descriptor, library.bytes + section->sh_offset, section->sh_size);
    relocate(section);
}

/* "   1f2a0:  mov    %rdx,%fs:0x8(%rax)" */
static void read_instructions(void)
{
    char command[1200], line[400];

    snprintf(command, sizeof command, "objdump -d --no-show-raw-insn '%s'", library.path);
    FILE *objdump = popen(command, "r");
    assert_non_null(objdump);
    library.instruction = calloc(INSTRUCTIONS_MOST, sizeof *library.instruction);
    while (fgets(line, sizeof line, objdump) != NULL) {
        struct instruction *in = &library.instruction[library.instructions];
        char *end;

        in->address = strtoull(line, &end, 16);
        if (*line != ' ' || *end != ':')
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(in->text, sizeof in->text, "%s", end + 1 + strspn(end + 1, " \t"));
        assert_true(++library.instructions < INSTRUCTIONS_MOST);
    }
    assert_int_equal(pclose(objdump), 0);
}

static int read_library(void **state)
{
    struct stat status;

    (void)state;
    library.path = getenv("DVSM_LIBRARY");
    if (!LANE_HAS_SEQUENCES || library.path == NULL || access("/usr/bin/objdump", X_OK) != 0)
        return 0;
    int fd = open(library.path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0)
        return -1;
    library.bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    read_descriptors();
    read_instructions();
    return 0;
}

static void skip_without_library(void)
{
    if (library.bytes == NULL)
        skip();
}

/* ---- finding places in the code */

static size_t index_of(uint64_t address)
{
    size_t i = 0;

    while (i < library.instructions && library.instruction[i].address != address)
        i++;
    if (i == library.instructions)
        fail_msg("no instruction begins at %#zx", (size_t)address);
    return i;
}

static bool is(const struct instruction *in, const char *mnemonic)
{
    return strncmp(in->text, mnemonic, strlen(mnemonic)) == 0;
}

/* Whether the last operand is in memory: then an ordinary instruction stores to it. */
static bool stores(const struct instruction *in)
{
    size_t length = strlen(in->text);

    return length > 0 && is(in, "mov") && in->text[length - 1] == ')' &&
           (strchr(in->text, '$') != NULL || strchr(in->text, '%') < strchr(in->text, '('));
}

static bool mentions(const struct instruction *in, uint64_t address)
{
    char comment[40];

    snprintf(comment, sizeof comment, "# %zx ", (size_t)address);
    return strstr(in->text, comment) != NULL;
}

static bool names(const struct instruction *in)
{
    return stores(in) && strstr(in->text, "%fs:0x8(") != NULL;
}

/* The instruction that loads a descriptor's address to name it; there is exactly one. (Code that
 * the compiler adds mentions the end of its data, which may be the address of the first descriptor,
 * too: hence the next instruction is looked at.) */
static size_t naming(size_t descriptor)
{
    uint64_t address = library.descriptors_at + descriptor * sizeof(struct descriptor);
    size_t found = 0, count = 0;

    for (size_t i = 0; i + 1 < library.instructions; i++)
        if (mentions(&library.instruction[i], address) && names(&library.instruction[i + 1])) {
            found = i;
            count++;
        }
    assert_int_equal(count, 1);
    return found;
}

/* ---- what must hold of each */

static void test_each_descriptor_is_of_the_version_that_kernels_know(void **state)
{
    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.descriptors; i++) {
        assert_int_equal(library.descriptor[i].version, 0);
        assert_int_equal(library.descriptor[i].flags, 0);
    }
}

static void test_each_sequence_is_a_few_instructions_of_the_text(void **state)
{
    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.descriptors; i++) {
        const struct descriptor *d = &library.descriptor[i];
        size_t first = index_of(d->start), end = index_of(d->start + d->length);

        assert_true(lies_in(section_named(".text"), d->start));
        assert_true(lies_in(section_named(".text"), d->start + d->length - 1));
        assert_in_range(end - first, 5, 15);
        assert_true(is(&library.instruction[first], "mov    %fs:0x4("));
    }
}

static void test_each_sequence_calls_nothing_and_jumps_only_out(void **state)
{
    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.descriptors; i++) {
        const struct descriptor *d = &library.descriptor[i];

        for (size_t k = index_of(d->start); library.instruction[k].address < d->start + d->length;
             k++) {
            const struct instruction *in = &library.instruction[k];

            assert_false(is(in, "call") || is(in, "syscall") || is(in, "ret") || is(in, "lock"));
            if (in->text[0] != 'j')
                continue;
            uint64_t target = strtoull(in->text + strcspn(in->text, " "), NULL, 16);
            assert_true(target - d->start >= d->length);
        }
    }
}

/* Whether it stores to the field `filled` of the lane. */
static bool stores_filled(const struct instruction *in)
{
    char place[40];

    snprintf(place, sizeof place, ",%#zx(%%r8)", offsetof(struct lane, filled));
    return stores(in) && strstr(in->text, place) != NULL;
}

/* Other stores may come before: to what nobody reads until the commit, or to what may be wrong. */
static void test_each_sequence_ends_in_the_store_that_commits(void **state)
{
    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.descriptors; i++) {
        const struct descriptor *d = &library.descriptor[i];
        size_t end = index_of(d->start + d->length);

        assert_true(stores(&library.instruction[end - 1]));
        assert_true(strstr(library.instruction[end - 1].text, ",8)") != NULL || /* (lane,cls,8) */
                    stores_filled(&library.instruction[end - 1]));
        for (size_t k = index_of(d->start); k < end - 1; k++)
            assert_null(strstr(library.instruction[k].text, ",8)") != NULL &&
                                stores(&library.instruction[k])
                            ? library.instruction[k].text
                            : NULL);
    }
}

static void test_each_is_aborted_to_a_place_behind_the_signature(void **state)
{
    (void)state;
    skip_without_library();
    const Elf64_Shdr *section = section_named("__rseq_abort");
    assert_non_null(section);
    assert_true((section->sh_flags & SHF_EXECINSTR) != 0);
    for (size_t i = 0; i < library.descriptors; i++) {
        const struct descriptor *d = &library.descriptor[i];
        uint32_t before;

        assert_true(d->abort - d->start >= d->length);
        assert_true(lies_in(section, d->abort) && lies_in(section, d->abort - 4));
        memcpy(&before, library.bytes + section->sh_offset + (d->abort - 4 - section->sh_addr),
               sizeof before);
        assert_int_equal(before, SIGNATURE);
    }
}

/* The code is: lea descriptor, lane; mov lane, %fs:8(rseq); the sequence. An aborted sequence is
 * never begun again: a thread that is single-stepped would do nothing else. */
static void test_each_is_named_once_just_before_it_begins(void **state)
{
    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.descriptors; i++) {
        const struct descriptor *d = &library.descriptor[i];
        size_t lea = naming(i), aborted = index_of(d->abort);

        assert_true(is(&library.instruction[lea], "lea"));
        assert_int_equal(library.instruction[lea + 2].address, d->start);
        assert_true(is(&library.instruction[aborted], "jmp"));
        const char *target = library.instruction[aborted].text + 3;
        uint64_t to = strtoull(target, NULL, 16);
        assert_true(to != library.instruction[lea].address && to - d->start >= d->length);
    }
}

/* A store to rseq_cs anywhere else would name something that is no descriptor. Only %r8 is
 * stored there; other stores of eight bytes next to a thread-local variable are the compiler's. */
static void test_nothing_else_is_ever_named(void **state)
{
    size_t named = 0;

    (void)state;
    skip_without_library();
    for (size_t i = 0; i < library.instructions; i++)
        named += strstr(library.instruction[i].text, "%r8,%fs:0x8(") != NULL;
    assert_int_equal(named, library.descriptors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_descriptor_is_of_the_version_that_kernels_know),
        cmocka_unit_test(test_each_sequence_is_a_few_instructions_of_the_text),
        cmocka_unit_test(test_each_sequence_calls_nothing_and_jumps_only_out),
        cmocka_unit_test(test_each_sequence_ends_in_the_store_that_commits),
        cmocka_unit_test(test_each_is_aborted_to_a_place_behind_the_signature),
        cmocka_unit_test(test_each_is_named_once_just_before_it_begins),
        cmocka_unit_test(test_nothing_else_is_ever_named),
    };

    return cmocka_run_group_tests(tests, read_library, NULL);
}
