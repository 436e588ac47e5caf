//! The nearest of some known names to a mistyped one.
//!
//! Owns the distance between two names. Does not own the names.

/// Names longer than this are no slip of the pen; looking for their neighbours would only cost time.
const NAME_CHARS_MAX: usize = 128;

/// The known name that differs from `given` in the fewest letters (left out, added, changed, or two swapped; case
/// counts for nothing), if these are at most a quarter of its letters, and one in any case. The first wins among equals.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given: Vec<char> = given.to_lowercase().chars().take(NAME_CHARS_MAX + 1).collect();
    if given.len() > NAME_CHARS_MAX {
        return None;
    }
    let farthest = (given.len() / 4).max(1);
    let distances = known.map(|name| (distance(&given, &name.to_lowercase().chars().collect::<Vec<_>>()), name));
    distances.filter(|(distance, _)| *distance <= farthest).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// The optimal string alignment distance: three rows of the usual table.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
    }

    #[test]
    fn distance_counts_each_kind_of_slip_once() {
        assert_eq!(between("memory", "memory"), 0);
        assert_eq!(between("memroy", "memory"), 1);
        assert_eq!(between("memry", "memory"), 1);
        assert_eq!(between("memoryy", "memory"), 1);
        assert_eq!(between("mamory", "memory"), 1);
        assert_eq!(between("", "abc"), 3);
        assert_eq!(between("abc", ""), 3);
    }

    #[test]
    fn nearest_refuses_a_wild_guess() {
        let known = ["worker.memory", "worker.data"];
        assert_eq!(nearest("worker.memroy", known.into_iter()), Some("worker.memory"));
        assert_eq!(nearest("WORKER.DATA", known.into_iter()), Some("worker.data"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest(&"w".repeat(100_000), known.into_iter()), None);
    }
}
