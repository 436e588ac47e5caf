//! Answers: what a workload has computed, as a table for people, as JSON, and compared with another answer.
//!
//! Does not own how answers are computed.

use serde::Serialize;
use std::{fmt, fmt::Write};

/// The answer of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// Of TPC-H query 12.
    Query12(Query12),
    /// Of counting a file's rows per key.
    TopKeys(TopKeys),
}

/// The answer of TPC-H query 12: line items received late in 1994, by ship mode and by the priority of their orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Query12 {
    /// One line per ship mode asked for, in alphabetical order.
    pub(crate) ship_modes: [ModeOrders; 2],
    /// How many orders the answer is computed from.
    pub(crate) orders: u64,
    /// How many line items the answer is computed from.
    pub(crate) lineitems: u64,
}

/// One line of query 12.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ModeOrders {
    /// The ship mode.
    pub(crate) ship_mode: &'static str,
    /// Line items of orders with priority `1-URGENT` or `2-HIGH`.
    pub(crate) high: u64,
    /// Line items of all other orders.
    pub(crate) low: u64,
}

/// The answer of counting a file's rows per key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TopKeys {
    /// The keys with most rows, at most ten; keys with equally many rows in the order of their bytes.
    pub(crate) largest: Vec<KeyRows>,
    /// How many distinct keys there are.
    pub(crate) keys: u64,
    /// How many rows there are.
    pub(crate) rows: u64,
    /// The rows' lengths as CSV text, summed up.
    pub(crate) bytes: u64,
    /// An order-free sum over every key with its rows and bytes: equal only if all keys agree, not just the largest.
    pub(crate) digest: String,
}

/// One key of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KeyRows {
    /// The key as text; bytes that are no UTF-8 as `\xNN`. A key of more than 1 KiB is cut there and ends in `…`.
    pub(crate) key: String,
    /// The length of the whole key in bytes.
    pub(crate) key_bytes: u64,
    /// How many rows have this key.
    pub(crate) rows: u64,
    /// The lengths of these rows as CSV text, summed up.
    pub(crate) bytes: u64,
}

impl Answer {
    /// How many rows were shuffled to compute this answer.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Query12(answer) => answer.orders + answer.lineitems,
            Self::TopKeys(answer) => answer.rows,
        }
    }

    /// What differs between the right answer, `self`, and `other`, one line per difference; `None` if nothing.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let mut lines = Differences::default();
        match (self, other) {
            (Self::Query12(right), Self::Query12(other)) => lines.query12(right, other),
            (Self::TopKeys(right), Self::TopKeys(other)) => lines.top_keys(right, other),
            (Self::Query12(_), Self::TopKeys(_)) | (Self::TopKeys(_), Self::Query12(_)) => {
                lines.0.push("these are answers to different questions".to_owned());
            }
        }
        Some(lines.0.join("\n"))
    }
}

/// Collects what differs.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn number(&mut self, what: &str, right: u64, other: u64) {
        if right != other {
            self.0.push(format!("{what}: {right} expected, {other} found"));
        }
    }

    fn query12(&mut self, right: &Query12, other: &Query12) {
        self.number("orders", right.orders, other.orders);
        self.number("line items", right.lineitems, other.lineitems);
        for (right, other) in right.ship_modes.iter().zip(&other.ship_modes) {
            self.number(&format!("{} of high priority", right.ship_mode), right.high, other.high);
            self.number(&format!("{} of low priority", right.ship_mode), right.low, other.low);
        }
    }

    fn top_keys(&mut self, right: &TopKeys, other: &TopKeys) {
        self.number("rows", right.rows, other.rows);
        self.number("bytes", right.bytes, other.bytes);
        self.number("keys", right.keys, other.keys);
        for (place, (right, other)) in right.largest.iter().zip(&other.largest).enumerate() {
            if right != other {
                self.0.push(format!("place {}: {right} expected, {other} found", place + 1));
            }
        }
        if self.0.is_empty() {
            self.0.push("a key that is not among the largest has other rows".to_owned());
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query12(answer) => answer.fmt(f),
            Self::TopKeys(answer) => answer.fmt(f),
        }
    }
}

impl fmt::Display for Query12 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10}{:>15}{:>15}", "ship mode", "high priority", "low priority")?;
        for ModeOrders { ship_mode, high, low } in &self.ship_modes {
            write!(f, "\n{ship_mode:<10}{high:>15}{low:>15}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TopKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.largest.iter().map(|row| printable(&row.key)).collect();
        let width = keys.iter().map(|key| key.chars().count()).max().unwrap_or_default().max("key".len());
        write!(f, "{:<width$}{:>14}{:>18}", "key", "rows", "bytes")?;
        for (key, KeyRows { rows, bytes, .. }) in keys.iter().zip(&self.largest) {
            write!(f, "\n{key:<width$}{rows:>14}{bytes:>18}")?;
        }
        write!(f, "\n{} keys, {} rows, {} bytes", self.keys, self.rows, self.bytes)
    }
}

impl fmt::Display for KeyRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} rows of {} bytes", printable(&self.key), self.rows, self.bytes)
    }
}

/// How many characters of a key are printed.
const PRINTED_CHARS: usize = 48;

/// A key as it can be printed on one line of any terminal: without control characters, not too long, visible if empty.
fn printable(key: &str) -> String {
    if key.is_empty() {
        return "(empty)".to_owned();
    }
    let mut text = String::new();
    let mut width = 0;
    let mut characters = key.chars().peekable();
    while let Some(character) = characters.next() {
        let start = text.len();
        if character.is_control() || is_direction_mark(character) {
            write!(text, "{}", character.escape_default()).expect("writing to memory does not fail");
        } else {
            text.push(character);
        }
        width += text[start..].chars().count();
        if width > PRINTED_CHARS || (width == PRINTED_CHARS && characters.peek().is_some()) {
            text.truncate(start);
            text.push('…');
            break;
        }
    }
    text
}

/// Characters that make a terminal show others in another order.
fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query12(high: u64, orders: u64) -> Answer {
        Answer::Query12(Query12 {
            ship_modes: [
                ModeOrders { ship_mode: "MAIL", high, low: 9324 },
                ModeOrders { ship_mode: "SHIP", high: 6200, low: 9262 },
            ],
            orders,
            lineitems: 6_001_215,
        })
    }

    fn keys(keys: &[&str], digest: &str) -> Answer {
        let largest = keys.iter().map(|key| KeyRows {
            key: (*key).to_owned(),
            key_bytes: key.len() as u64,
            rows: 12,
            bytes: 345,
        });
        Answer::TopKeys(TopKeys { largest: largest.collect(), keys: 20, rows: 99, bytes: 1234, digest: digest.into() })
    }

    #[test]
    fn query_12_prints_as_a_table() {
        let printed = "\
ship mode   high priority   low priority
MAIL                 6202           9324
SHIP                 6200           9262";
        assert_eq!(query12(6202, 1_500_000).to_string(), printed);
    }

    #[test]
    fn keys_print_aligned_short_and_without_control_characters() {
        let long = "long ".repeat(200);
        let printed = "\
key                                                       rows             bytes
(empty)                                                     12               345
two\\nlines\\u{1b}[2J                                         12               345
été                                                         12               345
long long long long long long long long long lo…            12               345
20 keys, 99 rows, 1234 bytes";
        assert_eq!(keys(&["", "two\nlines\u{1b}[2J", "été", &long], "").to_string(), printed);
    }

    #[test]
    fn a_key_is_cut_only_if_it_does_not_fit() {
        let fits = "x".repeat(PRINTED_CHARS);
        assert_eq!(printable(&fits), fits);
        assert_eq!(printable(&(fits + "y")), "x".repeat(PRINTED_CHARS - 1) + "…");
        // An escape is never cut in the middle.
        assert_eq!(printable(&("x".repeat(PRINTED_CHARS - 1) + "\n")), "x".repeat(PRINTED_CHARS - 1) + "…");
    }

    #[test]
    fn differences_are_named() {
        let right = query12(6202, 1_500_000);
        assert_eq!(right.difference(&right.clone()), None);
        assert_eq!(
            right.difference(&query12(6201, 1_499_999)).unwrap(),
            "orders: 1500000 expected, 1499999 found\nMAIL of high priority: 6202 expected, 6201 found"
        );
        assert_eq!(
            keys(&["a", "b"], "1").difference(&keys(&["a", "c"], "1")).unwrap(),
            "place 2: b with 12 rows of 345 bytes expected, c with 12 rows of 345 bytes found"
        );
        let hidden = keys(&["a"], "1").difference(&keys(&["a"], "2")).unwrap();
        assert_eq!(hidden, "a key that is not among the largest has other rows");
        assert!(right.difference(&keys(&[], "")).is_some());
    }

    #[test]
    fn answers_are_plain_json() {
        let json = serde_json::to_value(query12(6202, 1_500_000)).unwrap();
        assert_eq!(json["ship_modes"][0], serde_json::json!({"ship_mode": "MAIL", "high": 6202, "low": 9324}));
        assert_eq!(json["orders"], 1_500_000);
        let json = serde_json::to_value(keys(&["a\n"], "0f")).unwrap();
        assert_eq!(json["largest"][0], serde_json::json!({"key": "a\n", "key_bytes": 2, "rows": 12, "bytes": 345}));
    }
}
