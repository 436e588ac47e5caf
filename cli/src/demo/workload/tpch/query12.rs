//! TPC-H query 12: how many line items, shipped by mail or ship and received late in 1994, belong to urgent orders.
//!
//! Owns which rows count and the join, from text as it comes out of a shuffle. Does not own how rows are made.

use super::{
    super::{Partial, ReduceError, Reducer, RowSum, Table},
    TpchTable,
};
use std::io::BufRead;
use tpchgen::{
    dates::{MIN_GENERATE_DATE, TPCHDate},
    generators::LineItem,
};

/// The ship modes that the query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShipMode {
    /// `MAIL`.
    Mail = 0,
    /// `SHIP`.
    Ship = 1,
}

impl ShipMode {
    /// As it stands in the rows.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mail => "MAIL",
            Self::Ship => "SHIP",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"MAIL" => Some(Self::Mail),
            b"SHIP" => Some(Self::Ship),
            _ => None,
        }
    }
}

/// The year of receipt that the query asks for: its first day and the next year's, as text and in the generator's days.
const YEAR_TEXT: [&[u8]; 2] = [b"1994-01-01", b"1995-01-01"];
const YEAR_DAYS: [i32; 2] = [366 + 365, 366 + 2 * 365];

/// Whether the query counts an order of this priority as high.
pub(super) fn is_high(priority: &[u8]) -> bool {
    matches!(priority, b"1-URGENT" | b"2-HIGH")
}

/// The ship mode of a line item that the query counts, or `None` if it does not.
pub(super) fn selects_line(line: &LineItem<'_>) -> Option<ShipMode> {
    let mode = ShipMode::of(line.l_shipmode.as_bytes())?;
    let [from, to] = YEAR_DAYS.map(|day| TPCHDate::new(MIN_GENERATE_DATE + day));
    let late = line.l_shipdate < line.l_commitdate && line.l_commitdate < line.l_receiptdate;
    (late && from <= line.l_receiptdate && line.l_receiptdate < to).then_some(mode)
}

/// A share of the answer of query 12, with the rows it comes from.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Query12Counts {
    /// Line items by ship mode, then by whether the order's priority is high.
    counts: [[u64; 2]; 2],
    pub(super) orders: u64,
    pub(super) lineitems: u64,
}

impl Query12Counts {
    /// Counts one line item.
    pub(super) fn add(&mut self, mode: ShipMode, high: bool) {
        self.counts[mode as usize][usize::from(high)] += 1;
    }

    /// Line items of `mode`: those of orders of low, then those of high priority.
    pub(super) fn of(&self, mode: ShipMode) -> [u64; 2] {
        self.counts[mode as usize]
    }
}

impl Partial for Query12Counts {
    fn merge(&mut self, other: Self) {
        for (sum, count) in self.counts.as_flattened_mut().iter_mut().zip(other.counts.as_flattened()) {
            *sum += count;
        }
        self.orders += other.orders;
        self.lineitems += other.lineitems;
    }
}

/// A reduce task of query 12. Keeps eight bytes per order and per line item that the query counts, and joins them at
/// the end by sorting: tables may come in any order.
#[derive(Debug, Default)]
pub(crate) struct Query12Reducer {
    /// Order keys, each doubled, plus one if the priority is high.
    orders: Vec<u64>,
    /// Order keys of line items that count, each doubled, plus the ship mode's number.
    lines: Vec<u64>,
    accepted_orders: RowSum,
    accepted_lines: RowSum,
}

impl Reducer for Query12Reducer {
    type Table = TpchTable;
    type Partial = Query12Counts;

    fn accept(&mut self, table: TpchTable, mut batch: &[u8]) -> Result<(), ReduceError> {
        while !batch.is_empty() {
            let (row, rest) = split_row(table, batch)?;
            batch = rest;
            let malformed = |why| ReduceError::malformed(table.name(), why, row);
            match table {
                TpchTable::Orders => {
                    self.orders.push(parse_order(row).map_err(malformed)?);
                    self.accepted_orders.add(row);
                }
                TpchTable::Lineitem => {
                    self.lines.extend(parse_line(row).map_err(malformed)?);
                    self.accepted_lines.add(row);
                }
            }
        }
        Ok(())
    }

    fn accepted(&self, table: TpchTable) -> RowSum {
        match table {
            TpchTable::Orders => self.accepted_orders,
            TpchTable::Lineitem => self.accepted_lines,
        }
    }

    fn finish(mut self) -> Result<Query12Counts, ReduceError> {
        let mut counts = Query12Counts {
            orders: self.accepted_orders.rows,
            lineitems: self.accepted_lines.rows,
            ..Query12Counts::default()
        };
        self.orders.sort_unstable();
        self.lines.sort_unstable();
        if let Some(pair) = self.orders.windows(2).find(|pair| pair[0] >> 1 == pair[1] >> 1) {
            return Err(ReduceError::RepeatedOrder { order_key: pair[0] >> 1 });
        }
        let mut orders = self.orders.iter().peekable();
        for line in self.lines {
            let order_key = line >> 1;
            while orders.next_if(|order| **order >> 1 < order_key).is_some() {}
            match orders.peek() {
                Some(order) if **order >> 1 == order_key => {
                    let mode = if line & 1 == 0 { ShipMode::Mail } else { ShipMode::Ship };
                    counts.add(mode, **order & 1 == 1);
                }
                _ => return Err(ReduceError::MissingOrder { order_key }),
            }
        }
        Ok(counts)
    }
}

/// Splits the first row, with its newline, off `batch`.
fn split_row(table: TpchTable, batch: &[u8]) -> Result<(&[u8], &[u8]), ReduceError> {
    // The standard library's fastest search for a byte.
    let length = { batch }.skip_until(b'\n').expect("reading from memory does not fail");
    let (row, rest) = batch.split_at(length);
    match row.last() {
        Some(b'\n') => Ok((row, rest)),
        _ => Err(ReduceError::malformed(table.name(), "its last line has no end", row)),
    }
}

/// The columns of a row, one after the other.
struct Columns<'a>(&'a [u8]);

impl<'a> Columns<'a> {
    /// The next column but `skip`.
    fn nth(&mut self, skip: usize) -> Result<&'a [u8], &'static str> {
        for _ in 0..skip {
            self.next()?;
        }
        self.next()
    }

    #[inline]
    fn next(&mut self) -> Result<&'a [u8], &'static str> {
        let end = self.0.iter().position(|byte| *byte == b'|').ok_or("a row has too few columns")?;
        let (column, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(column)
    }

    fn order_key(&mut self) -> Result<u64, &'static str> {
        let digits = self.next()?;
        // Room to double the key.
        if digits.is_empty() || digits.len() > 18 {
            return Err("the order key is no number of 1 to 18 digits");
        }
        digits.iter().try_fold(0, |key, digit| match digit {
            b'0'..=b'9' => Ok(10 * key + u64::from(digit - b'0')),
            _ => Err("the order key is no number of 1 to 18 digits"),
        })
    }

    fn date(&mut self) -> Result<&'a [u8; 10], &'static str> {
        self.next()?.try_into().map_err(|_| "a date has not ten characters")
    }
}

/// An order's key, doubled, plus one if its priority is high.
fn parse_order(row: &[u8]) -> Result<u64, &'static str> {
    let mut columns = Columns(row);
    let order_key = columns.order_key()?;
    let priority = columns.nth(4)?;
    let _comment = columns.nth(2)?;
    if columns.0 != b"\n" {
        return Err("a row has too many columns");
    }
    Ok(order_key << 1 | u64::from(is_high(priority)))
}

/// The order key of a line item, doubled, plus its ship mode's number; `None` if the query does not count it.
fn parse_line(row: &[u8]) -> Result<Option<u64>, &'static str> {
    let mut columns = Columns(row);
    let order_key = columns.order_key()?;
    let _line_status = columns.nth(8)?;
    let (shipped, committed, received) = (columns.date()?, columns.date()?, columns.date()?);
    let mode = columns.nth(1)?;
    let _comment = columns.next()?;
    if columns.0 != b"\n" {
        return Err("a row has too many columns");
    }
    let [from, to] = YEAR_TEXT;
    let received_then = from <= received.as_slice() && received.as_slice() < to;
    let late = shipped < committed && committed < received;
    let mode = if late && received_then { ShipMode::of(mode) } else { None };
    Ok(mode.map(|mode| order_key << 1 | mode as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tpchgen::generators::LineItemGenerator;

    const ORDER: &str = "7|39136|O|252004.18|1996-01-10|2-HIGH|Clerk#000000470|0|ly special requests |\n";
    const LINE: &str = "7|182052|9607|1|12|13608.60|0.07|0.03|N|O|1994-01-20|1994-02-01|1994-03-05|\
                        TAKE BACK RETURN|SHIP|ously special|\n";

    fn accept(table: TpchTable, batch: &str) -> Result<(), ReduceError> {
        Query12Reducer::default().accept(table, batch.as_bytes())
    }

    #[test]
    fn the_year_is_the_same_in_text_and_in_days() {
        for (text, day) in YEAR_TEXT.iter().zip(YEAR_DAYS) {
            assert_eq!(TPCHDate::new(MIN_GENERATE_DATE + day).to_string().as_bytes(), *text);
        }
    }

    #[test]
    fn text_and_structs_select_the_same_lines() {
        let mut selected = 0;
        for line in LineItemGenerator::new(0.01, 1, 1).iter() {
            let expected = selects_line(&line).map(|mode| line.l_orderkey as u64 * 2 + mode as u64);
            assert_eq!(parse_line(format!("{line}\n").as_bytes()), Ok(expected));
            selected += u32::from(expected.is_some());
        }
        assert!(selected > 100);
    }

    #[test]
    fn every_condition_of_the_query_counts() {
        assert_eq!(parse_line(LINE.as_bytes()), Ok(Some(15)));
        assert_eq!(parse_line(LINE.replace("SHIP", "MAIL").as_bytes()), Ok(Some(14)));
        for (what, instead) in [
            ("SHIP", "TRUCK"),
            ("1994-01-20", "1994-02-01"),
            ("1994-02-01", "1994-03-05"),
            ("1994-03-05", "1995-01-01"),
        ] {
            assert_eq!(parse_line(LINE.replace(what, instead).as_bytes()), Ok(None), "{what} -> {instead}");
        }
        assert_eq!(parse_line(LINE.replace("1994", "1993").as_bytes()), Ok(None));
        assert_eq!(parse_line(LINE.replace("1994-03-05", "1994-12-31").as_bytes()), Ok(Some(15)));
    }

    #[test]
    fn a_line_before_its_order_finds_it() {
        let mut reducer = Query12Reducer::default();
        reducer.accept(TpchTable::Lineitem, format!("{LINE}{LINE}").as_bytes()).unwrap();
        reducer.accept(TpchTable::Orders, ORDER.as_bytes()).unwrap();
        reducer.accept(TpchTable::Lineitem, LINE.replace("SHIP", "MAIL").as_bytes()).unwrap();
        assert_eq!(reducer.accepted(TpchTable::Orders).rows, 1);
        let counts = reducer.finish().unwrap();
        assert_eq!((counts.orders, counts.lineitems), (1, 3));
        assert_eq!((counts.of(ShipMode::Mail), counts.of(ShipMode::Ship)), ([0, 1], [0, 2]));
    }

    #[test]
    fn lost_and_repeated_orders_are_named() {
        let mut reducer = Query12Reducer::default();
        reducer.accept(TpchTable::Orders, format!("{ORDER}{}", ORDER.replace("2-HIGH", "5-LOW")).as_bytes()).unwrap();
        assert!(matches!(reducer.finish(), Err(ReduceError::RepeatedOrder { order_key: 7 })));
        let mut reducer = Query12Reducer::default();
        reducer.accept(TpchTable::Orders, ORDER.replace("7|3", "8|3").as_bytes()).unwrap();
        reducer.accept(TpchTable::Lineitem, LINE.as_bytes()).unwrap();
        assert!(matches!(reducer.finish(), Err(ReduceError::MissingOrder { order_key: 7 })));
    }

    #[test]
    fn malformed_rows_are_refused() {
        use TpchTable::{Lineitem, Orders};
        assert!(accept(Orders, ORDER).is_ok() && accept(Lineitem, LINE).is_ok());
        for (table, batch, why) in [
            (Orders, LINE.to_owned(), "too many columns"),
            (Lineitem, ORDER.to_owned(), "too few columns"),
            (Orders, format!("{ORDER}{}", ORDER.trim_end()), "its last line has no end"),
            (Orders, "\n".to_owned(), "too few columns"),
            (Orders, ORDER.replacen('7', "", 1), "order key is no number"),
            (Orders, ORDER.replacen('7', "-7", 1), "order key is no number"),
            (Orders, ORDER.replacen('7', &"9".repeat(19), 1), "order key is no number"),
            (Lineitem, LINE.replace("1994-02-01", "1994-2-1"), "a date has not ten characters"),
        ] {
            let error = accept(table, &batch).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(batch in prop::collection::vec(any::<u8>(), 0..200), damage in 0..200usize, byte: u8) {
            let mut damaged = format!("{LINE}{ORDER}").into_bytes();
            let place = damage % damaged.len();
            damaged[place] = byte;
            for table in [TpchTable::Orders, TpchTable::Lineitem] {
                let mut reducer = Query12Reducer::default();
                let _ = reducer.accept(table, &batch);
                let _ = reducer.accept(table, &damaged);
                let _ = reducer.finish();
            }
        }
    }
}
