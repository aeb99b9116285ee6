/* roots.c - the table of roots. */
#include "heap/roots.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "sync/page.h"

enum { NAME_WORDS = ROOT_NAME / WORD };

size_t roots_most_bytes(void)
{
    return bits_round_up(ROOTS_MOST * sizeof(struct root), page_size());
}

int roots_init(struct root_table *table, struct root *roots)
{
    int error = lock_init(&table->lock, LOCK_ROOTS);

    if (error == 0)
        error = lock_init(&table->makers, LOCK_OF_PROGRAM);
    table->roots = roots;
    table->committed = table->used = table->recovering = 0;
    return error;
}

bool roots_read_name(const char *text, struct root_name *name)
{
    const char *end = text != NULL ? memchr(text, '\0', ROOT_NAME) : NULL;

    if (end == NULL || end == text)
        return false;
    *name = (struct root_name){{0}};
    memcpy(name->words, text, (size_t)(end - text));
    return true;
}

/* Never more than there is memory for, whatever the table says. */
static size_t count(const struct root_table *table)
{
    size_t used = __atomic_load_n(&table->used, __ATOMIC_ACQUIRE);
    size_t most = word_peek(&table->committed) / sizeof(struct root);

    most = most < ROOTS_MOST ? most : ROOTS_MOST;
    return used < most ? used : most;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool is_in_use(word state)
{
    return state % 2 != 0;
}

static bool has_name(const struct root *root, const struct root_name *name)
{
    for (size_t i = 0; i < NAME_WORDS; i++)
        if (__atomic_load_n(&root->name[i], __ATOMIC_ACQUIRE) != name->words[i])
            return false;
    return true;
}

/* Whether the root has that name, at one instant at which it has *value, too. */
static bool look(const struct root *root, const struct root_name *name, word *value)
{
    for (;;) {
        word state = __atomic_load_n(&root->state, __ATOMIC_ACQUIRE);
        bool found = is_in_use(state) && has_name(root, name);

        *value = __atomic_load_n(&root->value, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&root->state, __ATOMIC_ACQUIRE) == state)
            return found;
    }
}

bool roots_find(const struct root_table *table, const struct root_name *name, word *value)
{
    size_t used = count(table);

    for (size_t i = 0; i < used; i++)
        if (look(&table->roots[i], name, value))
            return true;
    return false;
}

/* ---- writing, with the lock held ------------------------------------------------------------- */

static void store(word *field, word value)
{
    compiler_barrier();
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
    compiler_barrier();
}

static struct root *entry_of(const struct root_table *table, const struct root_name *name)
{
    size_t used = count(table);

    for (size_t i = 0; i < used; i++)
        if (is_in_use(table->roots[i].state) && has_name(&table->roots[i], name))
            return &table->roots[i];
    return NULL;
}

/* An entry that is not in use; NULL: *error says why there is none. */
static struct root *free_entry(struct root_table *table, struct segments *segments, int *error)
{
    size_t used = count(table), needed = (used + 1) * sizeof(struct root);

    for (size_t i = 0; i < used; i++)
        if (!is_in_use(table->roots[i].state))
            return &table->roots[i];
    if (used >= ROOTS_MOST) {
        *error = ENOSPC;
        return NULL;
    }
    if (needed > table->committed &&
        !segment_charge(segments, (char *)table->roots + table->committed, page_size(),
                        (word *)&table->committed, table->committed + page_size())) {
        *error = ENOMEM;
        return NULL;
    }
    if (is_in_use(table->roots[used].state)) /* its writer died before it counted */
        store(&table->roots[used].state, table->roots[used].state + 1);
    return &table->roots[used];
}

static int add(struct root_table *table, struct segments *segments, const struct root_name *name,
               word value)
{
    int error = 0;
    struct root *root = free_entry(table, segments, &error);

    if (root == NULL)
        return error;
    for (size_t i = 0; i < NAME_WORDS; i++)
        word_show(&root->name[i], name->words[i]);
    word_show(&root->value, value);
    store(&root->state, root->state + 1);
    if (root == &table->roots[table->used])
        store(&table->used, table->used + 1);
    return 0;
}

static int exchange(struct root_table *table, struct segments *segments,
                    const struct root_name *name, word value, word *former)
{
    struct root *root = entry_of(table, name);

    *former = root != NULL ? root->value : 0;
    if (root == NULL)
        return value != 0 ? add(table, segments, name, value) : 0;
    if (value != 0)
        store(&root->value, value);
    else
        store(&root->state, root->state + 1);
    return 0;
}

/* Whether the table can be used, now that its lock is held. A holder that died may have been just
 * committing a page, which the map's journal then undoes: so the map is settled first. */
static bool is_settled(struct root_table *table, struct segments *segments, enum lock_state state)
{
    if (state == LOCK_OWNER_DIED) {
        word_show(&table->recovering, 1);
        compiler_barrier();
        lock_repaired(&table->lock);
    }
    if (unlikely(table->recovering) && segment_settle(segments))
        word_show(&table->recovering, 0);
    return likely(!table->recovering);
}

static bool enter(struct root_table *table, struct segments *segments)
{
    enum lock_state state = lock_acquire(&table->lock);

    if (state == LOCK_TAKEN || state == LOCK_REENTERED)
        return false;
    if (is_settled(table, segments, state))
        return true;
    lock_release(&table->lock);
    return false;
}

int roots_exchange(struct root_table *table, struct segments *segments,
                   const struct root_name *name, word value, word *former)
{
    if (!enter(table, segments))
        return EDEADLK;
    int error = exchange(table, segments, name, value, former);
    lock_release(&table->lock);
    return error;
}

int roots_add(struct root_table *table, struct segments *segments, const struct root_name *name,
              word value, word *former)
{
    if (!enter(table, segments))
        return EDEADLK;
    const struct root *root = entry_of(table, name);
    int error = root == NULL ? add(table, segments, name, value) : 0;

    *former = root != NULL ? root->value : 0;
    lock_release(&table->lock);
    return error;
}

void roots_settle(struct root_table *table, struct segments *segments)
{
    enum lock_state state = lock_try_acquire(&table->makers);

    if (state == LOCK_OWNER_DIED)
        lock_repaired(&table->makers);
    if (state == LOCK_OWNER_DIED || state == LOCK_ACQUIRED)
        lock_release(&table->makers);
    if (enter(table, segments))
        lock_release(&table->lock);
}

/* ---- checking -------------------------------------------------------------------------------- */

void roots_check(const struct root_table *table, struct check *check)
{
    size_t committed = word_peek(&table->committed), used = word_peek(&table->used);

    check_that(check, committed <= roots_most_bytes() && committed % page_size() == 0,
               "roots: %zu bytes of them are committed", committed);
    check_that(check, used <= ROOTS_MOST, "roots: %zu of at most %d", used, ROOTS_MOST);
    used = count(table);
    for (size_t i = 0; i < used; i++) {
        const struct root *root = &table->roots[i];
        const char *name = (const char *)root->name;

        check_that(check,
                   !is_in_use(word_peek(&root->state)) ||
                       (name[0] != '\0' && name[ROOT_NAME - 1] == '\0'),
                   "roots: entry %zu has no name", i);
    }
}
