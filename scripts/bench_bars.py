"""What scripts/bench makes of its figures: the table, and the bars they are held against."""
import math
import statistics

PRELOADED = ["jemalloc", "mimalloc", "tcmalloc", "tbbmalloc"]
RIVALS = ["libc", "jemalloc", "mimalloc", "tcmalloc"]  # those the bars name
MIB = 1 << 20


def one_process(label):
    """Threads, but no other process but the one that is measured."""
    return "processes" not in label and not label.startswith("fork-")


def best_rival(by_allocator):
    return min((by_allocator[name] for name in RIVALS if name in by_allocator), default=None)


def geometric_means(ns):
    """rival -> the mean of dvsm's time over its, or None where they have no workload in common."""
    means = {}
    for rival in RIVALS:
        ratios = [row["dvsm"] / row[rival] for label, row in ns.items()
                  if one_process(label) and "dvsm" in row and rival in row]
        means[rival] = statistics.geometric_mean(ratios) if ratios else None
    return means


def worst_workload(ns):
    """(ratio, label) of the workload in which dvsm is furthest behind the best rival."""
    found = [(row["dvsm"] / best_rival(row), label) for label, row in ns.items()
             if one_process(label) and "dvsm" in row and best_rival(row)]
    return max(found, default=(None, ""))


class Bars:
    """Each: what, the value measured (None: it was not), the limit, whether it holds."""

    def __init__(self, results):
        self.results, self.ns, self.list = results, results["ns"], []

    def add(self, what, value, limit, at_least=False, strict=False, of_all=False):
        """`of_all`: a bar for all workloads, which no part of them can meet."""
        holds = None
        partial = of_all and (self.results["filter"] or self.results["errors"])
        if value is not None and not partial:
            holds = value >= limit if at_least else value < limit if strict else value <= limit
        self.list.append({"what": what, "value": value, "limit": limit, "holds": holds,
                          "sign": ">=" if at_least else "<" if strict else "<="})

    def time(self, label, allocator="dvsm"):
        return self.ns.get(label, {}).get(allocator)

    def ratio(self, above, below):
        return above / below if above is not None and below is not None else None

    def pairs(self):
        for key, text, limit in (("pairs", "", 1.0), ("pairs_locked", ", locked mode", 3.5)):
            for size in ("64", "500", "8000"):
                by_name = self.results.get(key, {}).get(size)
                value = by_name and by_name["dvsm"]["median"] / by_name["libc"]["median"]
                self.add(f"pair of {size} B over tcmalloc{text}", value, limit)

    def times(self):
        for rival, mean in geometric_means(self.ns).items():
            self.add(f"geometric mean over {rival}", mean, 1.0, strict=True, of_all=True)
        ratio, label = worst_workload(self.ns)
        self.add(f"worst workload over the best rival ({label})", ratio, 2.0, of_all=True)
        for n, limit in ((1, 30), (2, 150), (4, 100)):
            label = f"ring-processes/{n}"
            value = self.ratio(self.time(label, "boost-rbtree"), self.time(label))
            self.add(f"ring: times faster than boost-rbtree, {n} processes", value, limit, True)
        for name in ("larson", "ring"):
            one, two, eight = (self.time(f"{name}-processes/{n}") for n in (1, 2, 8))
            self.add(f"{name}: throughput of 2 processes over 1", self.ratio(one, two), 1.9, True)
            value = self.ratio(two, eight)
            self.add(f"{name}: throughput of 8 processes over 2", value, 0.95, True)
        threads = best_rival(self.ns.get("producer-consumer/threads", {}))
        value = self.ratio(self.time("producer-consumer/processes"), threads)
        self.add("producer-consumer/processes over the best rival's threads", value, 1.2)
        value = self.ratio(self.time("first-touch"), self.time("first-touch", "libc"))
        self.add("first touch of a page over libc", value, 0.5)
        value = self.ratio(self.time("fork-1GiB"), self.time("fork-1GiB", "libc"))
        self.add("fork with 1 GiB in use over libc", value, 0.2)

    def footprint(self):
        peaks, left = [], []
        for label, by_name in self.results.get("footprint", {}).items():
            allowed = by_name["libc"]["peak"]["resident"] * 1.05 + MIB
            dvsm = by_name["dvsm"]
            peak = max(dvsm["peak"]["resident"], dvsm["peak"]["said"])
            peaks.append((peak / allowed, label))
            for state in ("trimmed", "empty"):
                has = max(dvsm[state]["shared"], dvsm[state]["said"])
                left.append((has / (2 * MIB + 1.1 * dvsm[state]["live"]), f"{label}, {state}"))
        for text, found in (("peak over libc's + 5 % + 1 MiB", peaks),
                            ("after a trim over 2 MiB + 1.1 live", left)):
            value, label = max(found, default=(None, "-"))
            self.add(f"footprint: {text}, worst ({label})", value, 1.0)

    def percentiles(self):
        measured = self.results.get("percentiles", {})
        for call in ("malloc", "free"):
            key = "p99.99"
            mine = [by["dvsm"][call][key] for by in measured.values()]
            peers = [measured[name]["peer"][call][key] for name in RIVALS if name in measured]
            value = statistics.median(mine) / min(peers) if mine and peers else None
            self.add(f"{key} of {call} over the best rival", value, 5.0)


def bars(results):
    made = Bars(results)
    made.pairs()
    made.times()
    made.footprint()
    made.percentiles()
    return made.list


def number(value):
    return "-" if value is None else f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f}"


def doubts(results):
    """Why the figures may mean less than they seem to."""
    lines = []
    if results["quick"]:
        lines.append("One short run of each: too little for a verdict.")
    if results["load_before"] > 0.3 * results["cpus"]:
        lines.append(f"Others used the machine (load {results['load_before']:.1f} at the start, "
                     f"{results['cpus']} CPUs): trust several workers' figures least of all.")
    return lines


def table(results):
    """Times in ns an operation by workload and allocator, then the bars."""
    columns = results["allocators"]
    lines = ["ns an operation, medians; ratio: dvsm over the best of " + ", ".join(RIVALS), ""]
    lines.append(f"{'':28}" + "".join(f"{name[:10]:>11}" for name in columns) + f"{'ratio':>9}")
    for label, row in results["ns"].items():
        best = best_rival(row)
        ratio = row["dvsm"] / best if best and "dvsm" in row else None
        cells = "".join(f"{number(row.get(name)):>11}" for name in columns)
        lines.append(f"{label:28}{cells}{number(ratio):>9}")
    lines += ["", "bars"]
    lines += doubts(results)
    for bar in results["bars"]:
        unknown = "not measured" if bar["value"] is None else "(part only)"
        verdict = {None: unknown, True: "holds", False: "FAILS"}[bar["holds"]]
        if results["quick"] and bar["holds"] is not None:
            verdict = "(quick)"
        limit = f"{bar['sign']} {bar['limit']}"
        lines.append(f"{bar['what']:72}{number(bar['value']):>9}  {limit:8} {verdict}")
    lines.append("Not measured here: instructions of a call, and the cost of journal and checks.")
    return "\n".join(lines)
