/* index.c - the tree of maxima above the granules' words. */
#include "segment/segment_map.h"

size_t segment_index_nodes(size_t level, size_t granules)
{
    for (; level > 0; level--)
        granules = (granules + FANOUT - 1) / FANOUT;
    return granules;
}

static size_t node_value(const struct segment_map *map, size_t level, size_t node)
{
    if (level > 0)
        return map->level[level][node];

    word w = granule_load(map, node);

    return (w & FIRST) != 0 ? granule_value(w) : 0;
}

size_t segment_index_most(const struct segment_map *map, size_t level, size_t group)
{
    size_t most = 0;

    for (size_t node = group * FANOUT; node < (group + 1) * FANOUT; node++) {
        size_t value = node_value(map, level, node);

        if (value > most)
            most = value;
    }
    return most;
}

static size_t lowest_of_group(const struct segment_map *map, size_t level, size_t group, size_t n)
{
    for (size_t node = group * FANOUT; node < (group + 1) * FANOUT; node++)
        if (node_value(map, level, node) >= n)
            return node;
    return NO_GRANULE;
}

size_t segment_index_find(const struct segment_map *map, size_t n)
{
    size_t node = 0;

    if (map->used == 0)
        return NO_GRANULE; /* perhaps not even the first page of each level is committed */
    for (size_t level = map->levels + 1; level-- > 0 && node != NO_GRANULE;)
        node = lowest_of_group(map, level, node, n);
    return node;
}

void segment_index_update(struct segment_map *map, size_t granule)
{
    size_t node = granule;

    for (size_t level = 0; level < map->levels; level++) {
        node /= FANOUT;

        size_t most = segment_index_most(map, level, node);

        if (map->level[level + 1][node] == most)
            return;
        journal_store(&map->journal, &map->level[level + 1][node], most);
    }
}
