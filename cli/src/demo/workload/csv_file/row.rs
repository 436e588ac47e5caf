//! How a record travels: its key and its text as CSV, each with its length before it.
//!
//! Owns the encoding. Does not own files or counts.

use csv::ByteRecord;

/// One row as it comes out of the shuffle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The key's bytes.
    pub(super) key: &'a [u8],
    /// The whole record as one line of CSV (more, if a field holds line breaks).
    pub(super) text: &'a [u8],
    /// Key and text with their lengths, as they were pushed.
    pub(super) whole: &'a [u8],
}

/// Replaces the content of `row` by `record`, whose key is the field at `key_column`.
///
/// A field that is missing, which a checked file does not have, counts as empty.
pub(super) fn encode(record: &ByteRecord, key_column: usize, row: &mut Vec<u8>) {
    row.clear();
    let key = record.get(key_column).unwrap_or_default();
    row.extend_from_slice(&length(key.len()));
    row.extend_from_slice(key);
    let text_length_at = row.len();
    row.extend_from_slice(&length(0));
    let text_at = row.len();
    write_text(record, row);
    let text_length = length(row.len() - text_at);
    row[text_length_at..text_at].copy_from_slice(&text_length);
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("records are bounded far below 4 GiB").to_le_bytes()
}

/// Appends `record` as CSV; fields are quoted only where they must be.
fn write_text(record: &ByteRecord, row: &mut Vec<u8>) {
    // A lone empty field would make an empty line, which is no record.
    let lone_and_empty = record.len() == 1 && record.as_slice().is_empty();
    for (index, field) in record.iter().enumerate() {
        if index > 0 {
            row.push(b',');
        }
        if lone_and_empty || field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
            row.push(b'"');
            for (index, part) in field.split(|byte| *byte == b'"').enumerate() {
                if index > 0 {
                    row.extend_from_slice(b"\"\"");
                }
                row.extend_from_slice(part);
            }
            row.push(b'"');
        } else {
            row.extend_from_slice(field);
        }
    }
    row.push(b'\n');
}

/// Splits the first row off `batch`; `Err` says what is wrong.
pub(super) fn split_row(batch: &[u8]) -> Result<(Row<'_>, &[u8]), &'static str> {
    let (key, rest) = split_counted(batch)?;
    let (text, rest) = split_counted(rest)?;
    let whole = &batch[..batch.len() - rest.len()];
    Ok((Row { key, text, whole }, rest))
}

fn split_counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("a length is cut off")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| "a length is too large")?;
    rest.split_at_checked(length).ok_or("a length reaches beyond the batch")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(fields: &[&str], key_column: usize) -> Vec<u8> {
        let mut row = b"left over".to_vec();
        encode(&ByteRecord::from(fields), key_column, &mut row);
        row
    }

    #[test]
    fn a_row_holds_key_and_text() {
        let bytes = encoded(&["a", "say \"hi\", twice", ""], 1);
        let text = b"a,\"say \"\"hi\"\", twice\",\n";
        let (row, rest) = split_row(&bytes).unwrap();
        assert_eq!(row, Row { key: b"say \"hi\", twice", text, whole: &bytes });
        assert!(rest.is_empty());
        let bytes = encoded(&[""], 0);
        assert_eq!(split_row(&bytes).unwrap().0.text, b"\"\"\n");
    }

    #[test]
    fn cut_rows_are_refused() {
        let bytes = encoded(&["key", "value"], 0);
        for end in 0..bytes.len() {
            assert!(split_row(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn records_survive(
            fields in prop::collection::vec(prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b",\"\r\n"[..])], 0..20), 1..5),
            trailer in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            // What a reader takes for a byte order mark is no field of a record in the middle of a file.
            prop_assume!(!fields[0].starts_with(b"\xef\xbb\xbf"));
            let record = ByteRecord::from(fields.clone());
            let key_column = fields.len() - 1;
            let mut bytes = Vec::new();
            encode(&record, key_column, &mut bytes);
            bytes.extend_from_slice(&trailer);
            let (row, rest) = split_row(&bytes).unwrap();
            prop_assert_eq!(row.key, &fields[key_column]);
            prop_assert_eq!(rest, &trailer);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(row.text);
            let records: Vec<ByteRecord> = reader.byte_records().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(records, vec![record]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = split_row(&bytes);
        }
    }
}
