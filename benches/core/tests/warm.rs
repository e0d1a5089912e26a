//! Placement, sets of nodes and lists in a row take no memory once they are warm. One test, because memory is counted for
//! the whole process.

use gangway_bench_core::cases;
use gangway_bench_core::measure::allocated;

#[test]
fn nothing_is_allocated_once_warm() {
    let promised = |name: &str| {
        ["place/", "nodeset/", "hostlist/read/dense", "hostlist/read/shuffled"]
            .iter()
            .any(|begins| name.starts_with(begins))
    };
    let mut looked_at = 0;
    for (name, make) in cases().into_iter().filter(|(name, _)| promised(name)) {
        let (calls, bytes) = allocated(&mut make(), 2);
        assert_eq!((calls, bytes), (0, 0), "{name}");
        looked_at += 1;
    }
    assert!(looked_at > 15, "only {looked_at} cases");
}
