/* modes.h - what the program does besides Google Benchmark's runs. Each prints one JSON object.
 *
 *     pairs        ns for malloc + free of 64, 500 and 8,000 bytes: dvsm and libc by turns
 *     percentiles  ns of single calls of malloc and free in two processes, dvsm and libc by turns
 *     footprint    memory over time, at the peak, after a trim, for dvsm and libc
 */
#ifndef BENCHMARKS_MODES_H
#define BENCHMARKS_MODES_H

void print_pairs(unsigned runs, double seconds);
void print_percentiles(unsigned runs);
void print_footprint();

#endif
