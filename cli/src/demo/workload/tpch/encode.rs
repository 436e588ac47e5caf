//! The text of TPC-H rows.
//!
//! Owns the encoding only. It is that of the generator crate's `Display`, byte for byte, at a fraction of the time:
//! formatting would otherwise be most of what a map task does.

use std::io::Write;
use tpchgen::{
    dates::{MIN_GENERATE_DATE, TOTAL_DATE_RANGE, TPCHDate},
    decimal::TPCHDecimal,
    generators::{LineItem, Order},
};

/// A date as text, with the separator that follows it.
type DateText = [u8; 11];

/// Encodes rows. Holds the text of every date there is, so make one and share it.
#[derive(Debug)]
pub(super) struct RowEncoder {
    dates: Vec<DateText>,
}

impl RowEncoder {
    /// An encoder for rows of both tables.
    pub(super) fn new() -> Self {
        let text = |day| {
            let mut text = *b"0000-00-00|";
            write!(text.as_mut_slice(), "{}", TPCHDate::new(MIN_GENERATE_DATE + day))
                .expect("a date has ten characters");
            text
        };
        Self { dates: (0..TOTAL_DATE_RANGE).map(text).collect() }
    }

    /// Appends `order` as one line.
    pub(super) fn order(&self, order: &Order<'_>, row: &mut Vec<u8>) {
        number(row, order.o_orderkey);
        number(row, order.o_custkey);
        text(row, order.o_orderstatus.as_str());
        decimal(row, order.o_totalprice);
        self.date(row, order.o_orderdate);
        text(row, order.o_orderpriority);
        write!(row, "{}|", order.o_clerk).expect("writing to memory does not fail");
        number(row, i64::from(order.o_shippriority));
        text(row, order.o_comment);
        row.push(b'\n');
    }

    /// Appends `line` as one line.
    pub(super) fn lineitem(&self, line: &LineItem<'_>, row: &mut Vec<u8>) {
        number(row, line.l_orderkey);
        number(row, line.l_partkey);
        number(row, line.l_suppkey);
        number(row, i64::from(line.l_linenumber));
        number(row, line.l_quantity);
        decimal(row, line.l_extendedprice);
        decimal(row, line.l_discount);
        decimal(row, line.l_tax);
        text(row, line.l_returnflag);
        text(row, line.l_linestatus);
        self.date(row, line.l_shipdate);
        self.date(row, line.l_commitdate);
        self.date(row, line.l_receiptdate);
        text(row, line.l_shipinstruct);
        text(row, line.l_shipmode);
        text(row, line.l_comment);
        row.push(b'\n');
    }

    #[inline]
    fn date(&self, row: &mut Vec<u8>, date: TPCHDate) {
        let day = usize::try_from(date.into_inner()).expect("no date is before the first one");
        row.extend_from_slice(&self.dates[day]);
    }
}

#[inline]
fn text(row: &mut Vec<u8>, text: &str) {
    row.extend_from_slice(text.as_bytes());
    row.push(b'|');
}

#[inline]
fn number(row: &mut Vec<u8>, number: i64) {
    sign(row, number);
    digits(row, number.unsigned_abs());
    row.push(b'|');
}

#[inline]
fn decimal(row: &mut Vec<u8>, decimal: TPCHDecimal) {
    let hundredths = decimal.into_inner();
    sign(row, hundredths);
    digits(row, hundredths.unsigned_abs() / 100);
    let [tens, ones] = two_digits(hundredths.unsigned_abs() % 100);
    row.extend_from_slice(&[b'.', tens, ones, b'|']);
}

#[inline]
fn sign(row: &mut Vec<u8>, number: i64) {
    if number < 0 {
        row.push(b'-');
    }
}

#[inline]
fn digits(row: &mut Vec<u8>, mut number: u64) {
    let mut text = [0; 20];
    let mut start = text.len();
    while number >= 10 {
        start -= 2;
        text[start..start + 2].copy_from_slice(&two_digits(number % 100));
        number /= 100;
    }
    if number > 0 || start == text.len() {
        start -= 1;
        text[start] = b'0' + number as u8;
    }
    row.extend_from_slice(&text[start..]);
}

/// `number`, below 100, with a leading zero if need be.
#[inline]
fn two_digits(number: u64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tpchgen::generators::{ClerkName, OrderStatus};

    #[test]
    fn every_date_has_its_text() {
        let encoder = RowEncoder::new();
        for day in 0..TOTAL_DATE_RANGE {
            let date = TPCHDate::new(MIN_GENERATE_DATE + day);
            let mut row = Vec::new();
            encoder.date(&mut row, date);
            assert_eq!(row, format!("{date}|").as_bytes());
        }
    }

    fn check_numbers(value: i64) {
        let mut row = Vec::new();
        number(&mut row, value);
        decimal(&mut row, TPCHDecimal(value));
        assert_eq!(String::from_utf8(row).unwrap(), format!("{value}|{}|", TPCHDecimal(value)));
    }

    #[test]
    fn numbers_at_their_edges() {
        for power in 0..19 {
            let edge = 10i64.pow(power);
            [edge - 1, edge, edge + 1, -edge, 5 * (edge / 10)].into_iter().for_each(check_numbers);
        }
        [0, i64::MAX, i64::MIN + 1].into_iter().for_each(check_numbers);
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_by_the_generator(value in i64::MIN + 1..) {
            check_numbers(value);
        }

        #[test]
        fn orders_are_written_as_by_the_generator(
            key in 1..6_000_000_000i64, price in 0..100_000_000i64, clerk in 1..2_000_000_000i32, day in 0..TOTAL_DATE_RANGE,
        ) {
            let order = Order {
                o_orderkey: key,
                o_custkey: key / 3,
                o_orderstatus: OrderStatus::Pending,
                o_totalprice: TPCHDecimal(price),
                o_orderdate: TPCHDate::new(MIN_GENERATE_DATE + day),
                o_orderpriority: "2-HIGH",
                o_clerk: ClerkName::new(clerk),
                o_shippriority: clerk,
                o_comment: "",
            };
            let mut row = Vec::new();
            RowEncoder::new().order(&order, &mut row);
            prop_assert_eq!(String::from_utf8(row).unwrap(), format!("{order}\n"));
        }
    }
}
