//! Files as users have them, from the check to the answer.

use super::{super::tests, *};
use proptest::prelude::*;
use std::io::Write;
use tempfile::NamedTempFile;

fn file(content: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_ref()).unwrap();
    file
}

fn maps(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

fn open(content: impl AsRef<[u8]>, key: &str, count: u16) -> (NamedTempFile, CsvFile) {
    let file = file(content);
    let csv = CsvFile::open(file.path(), key, maps(count)).unwrap();
    (file, csv)
}

/// The error for a file with `content`, without its path.
fn refused(content: impl AsRef<[u8]>, key: &str) -> String {
    let file = file(content);
    let error = CsvFile::open(file.path(), key, maps(4)).unwrap_err().to_string();
    error.replace(&file.path().display().to_string(), "FILE")
}

fn top_keys(answer: Answer) -> super::super::TopKeys {
    match answer {
        Answer::TopKeys(answer) => answer,
        Answer::Query12(_) => panic!("not an answer about keys"),
    }
}

/// Checks that shuffling gives the direct answer, whatever the numbers of maps and partitions, and returns it.
fn shuffled(content: impl AsRef<[u8]>, key: &str) -> super::super::TopKeys {
    let mut answer = None;
    for (count, partitions) in [(1, 1), (3, 5), (64, 2)] {
        let (_file, csv) = open(&content, key, count);
        let direct = tests::direct(&csv);
        assert_eq!(direct.difference(&tests::run(&csv, partitions, CsvFile::TABLES)), None);
        assert!(answer.is_none_or(|answer| answer == direct));
        answer = Some(direct);
    }
    top_keys(answer.unwrap())
}

#[test]
fn awkward_fields_are_counted() {
    let long = "long key, \"quoted\"\n".repeat(20_000);
    let quoted = long.replace('"', "\"\"");
    let content = format!(
        "name,key,value\n\
         \"a,b\",\"say \"\"hi\"\"\",1\n\
         c,,2\n\
         \"line\nbreak\",\"\",3\n\
         d,\"two\nlines\",4\n\
         e,\"{quoted}\",5\n\
         f,\"{quoted}\",6\n\
         g,\"say \"\"hi\"\"\",\n"
    );
    let answer = shuffled(&content, "key");
    let keys: Vec<_> = answer.largest.iter().map(|key| (key.key.as_str(), key.key_bytes, key.rows)).collect();
    let cut = format!("{}…", &long[..1024]);
    assert_eq!(keys, [("", 0, 2), (cut.as_str(), long.len() as u64, 2), ("say \"hi\"", 8, 2), ("two\nlines", 9, 1)]);
    assert_eq!((answer.keys, answer.rows), (4, 7));
    // Every field that is quoted must be: text and file are equally long.
    let records = content.replace(",\"\",", ",,");
    assert_eq!(answer.bytes, (records.len() - "name,key,value\n".len()) as u64);
    let (_file, csv) = open(&content, "key", 1);
    assert_eq!(csv.largest_row_bytes(), 4 + long.len() as u64 + 4 + quoted.len() as u64 + "e,\"\",5\n".len() as u64);
}

#[test]
fn line_ends_marks_and_empty_lines_do_not_matter() {
    let plain = shuffled("k,v\na,1\nb,2\na,3\n", "k");
    for content in [
        "k,v\r\na,1\r\nb,2\r\na,3\r\n",
        "k,v\na,1\nb,2\na,3",
        "\u{feff}k,v\na,1\nb,2\na,3\n",
        "k,v\n\n\na,1\nb,2\n\na,3\n\n",
        "\"k\",\"v\"\r\n\"a\",\"1\"\r\n\r\n\"b\",\"2\"\r\n\"a\",\"3\"",
    ] {
        assert_eq!(shuffled(content, "k"), plain, "{content:?}");
    }
}

#[test]
fn a_column_of_bytes_and_a_lone_column() {
    let answer = shuffled(b"k\n\xff\xfe\n\"\"\n\xff\xfe\n", "k");
    assert_eq!(answer.largest[0].key, "\\xff\\xfe");
    assert_eq!((answer.largest[1].key.as_str(), answer.rows), ("", 3));
}

#[test]
fn a_byte_order_mark_amid_the_file_is_data() {
    let content = format!("k,v\n{}", "\u{feff}x,1\ny,2\n\u{feff}x,3\n".repeat(5));
    let answer = shuffled(&content, "k");
    assert_eq!((answer.largest[0].key.as_str(), answer.largest[0].rows), ("\u{feff}x", 10));
}

#[test]
fn unusable_files_are_refused() {
    assert_eq!(refused("", "k"), "FILE is empty: its first line must name the columns");
    assert_eq!(refused("\n\n", "k"), "FILE is empty: its first line must name the columns");
    assert_eq!(refused("k,v\n", "k"), "FILE has column names but no records: there is nothing to shuffle");
    assert_eq!(refused("k,v,k\n1,2,3\n", "k"), "FILE has more than one column \"k\": give them different names");
    assert_eq!(
        refused("ship mode,order key\n1,2\n", "Ship_Mode"),
        "FILE has no column \"Ship_Mode\", did you mean \"ship mode\"?; its columns are \"ship mode\", \"order key\""
    );
    let columns: Vec<String> = (0..40).map(|column| format!("column {column:?}")).collect();
    let error = refused(columns.join(",") + "\n", "zzz");
    assert!(error.starts_with("FILE has no column \"zzz\"; its columns are \"column 0\", "), "{error}");
    assert!(error.ends_with("\"column 29\" and 10 more"), "{error}");
}

#[test]
fn ragged_records_are_refused_with_their_line() {
    let message = |line, record, fields| {
        format!(
            "FILE, line {line} (record {record}): {fields} fields, but there are 2 columns; is a quote or a comma missing?"
        )
    };
    for (content, line, record, fields) in [
        ("k,v\na,1\nb\n", 3, 2, 1),
        ("k,v\na,1\nb", 3, 2, 1),
        ("k,v\r\na,1\r\nb,2,3\r\n", 3, 2, 3),
        ("k,v\r\na,1\r\nb,2,3", 3, 2, 3),
        ("k,v\na,\"1\n2\n3\"\n\n\nb,2,3\n", 7, 2, 3),
        ("\"k\",v\na,1\n\"b\nc\"\n", 3, 2, 1),
    ] {
        assert_eq!(refused(content, "k"), message(line, record, fields), "{content:?}");
    }
}

#[test]
fn a_quote_that_is_never_closed_is_found() {
    let mut content = b"k,v\na,1\nb,\"".to_vec();
    content.resize(content.len() + 66 * (1 << 20), b'x');
    let expected = "FILE: the record that starts at line 3 is longer than 64 MiB; is a closing quote missing?";
    assert_eq!(refused(content, "k"), expected);
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| CsvFile::open(path, "k", maps(1)).unwrap_err().to_string();
    let missing = error(&folder.path().join("no.csv"));
    assert!(missing.starts_with("can't read /") && missing.contains("no.csv: No such file"), "{missing}");
    assert!(error(folder.path()).ends_with("it is not a regular file, and it must be read more than once"));
}

#[test]
fn a_file_that_changes_is_refused() {
    let content: String = (0..1000).map(|record| format!("{},{record}\n", record % 7)).collect();
    let (mut file, csv) = open(format!("k,v\n{content}"), "k", 4);
    let mut row = Vec::new();
    let mut rows = csv.rows(CsvTable, 3).unwrap();
    rows.next_row(&mut row).unwrap();
    file.write_all(b"8,8\n").unwrap();
    let error = csv.rows(CsvTable, 0).unwrap_err().to_string();
    assert!(error.ends_with("was changed while it was being shuffled; run again when nothing writes to it"), "{error}");
    // A task that had begun says so at its end.
    let end = std::iter::repeat_with(|| rows.next_row(&mut row)).find(|next| !matches!(next, Ok(Some(_))));
    assert!(matches!(end, Some(Err(RowError::Changed { .. }))));

    let (file, csv) = open("k,v\na,1\nb,2\n", "k", 1);
    file.as_file().set_len(6).unwrap();
    assert!(matches!(csv.rows(CsvTable, 0), Err(RowError::Changed { .. })));
    drop(file);
    assert!(matches!(csv.rows(CsvTable, 0), Err(RowError::Read { .. })));
}

#[test]
fn map_tasks_share_the_records_in_order() {
    let content: String = (0..1003).map(|record| format!("k{},{record}\n", record % 5)).collect();
    for count in [1, 7, 1003, 2000] {
        let (_file, csv) = open(format!("k,v\n{content}"), "k", count);
        let shares: Vec<_> = (0..u32::from(count)).map(|map| tests::all_rows(&csv, CsvTable, map)).collect();
        let even = 1003 / usize::from(count);
        assert!(shares.iter().all(|share| (even..=even + 1).contains(&share.len())));
        let text: Vec<u8> =
            shares.iter().flatten().flat_map(|(_, row)| row::split_row(row).unwrap().0.text.to_vec()).collect();
        assert_eq!(text, content.as_bytes());
        assert_eq!(shares[0], tests::all_rows(&csv, CsvTable, 0));
    }
}

#[test]
fn large_files_keep_few_marks() {
    let records = 40_000;
    let content: String = (0..records).map(|record| format!("{},{record}\n", record % 100)).collect();
    let (_file, csv) = open(format!("k,v\n{content}"), "k", 9);
    assert!((2048..=8192).contains(&csv.marks.len()));
    let text: Vec<u8> = (0..9)
        .flat_map(|map| tests::all_rows(&csv, CsvTable, map))
        .flat_map(|(_, row)| row::split_row(&row).unwrap().0.text.to_vec())
        .collect();
    assert_eq!(text, content.as_bytes());
}

#[test]
fn malformed_batches_are_refused() {
    let error = KeyReducer::default().accept(CsvTable, &[200, 0, 0, 0, b'k']).unwrap_err().to_string();
    assert!(error.contains("a length reaches beyond the batch"), "{error}");
    let mut rows = tests::all_rows(&open("k,v\na,1\n", "k", 1).1, CsvTable, 0);
    let (_, mut row) = rows.remove(0);
    row.truncate(row.len() - 1);
    assert!(KeyReducer::default().accept(CsvTable, &row).is_err());
}

proptest! {
    #[test]
    fn any_records_survive_the_shuffle(
        records in prop::collection::vec(prop::array::uniform3("[a-b,\"\r\n\u{feff}é ]{0,6}"), 1..60),
        count in 1..20u16,
        partitions in 1..6u32,
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["x", "key", "y"]).unwrap();
        records.iter().for_each(|record| writer.write_record(record).unwrap());
        let (_file, csv) = open(writer.into_inner().unwrap(), "key", count);
        let direct = tests::direct(&csv);
        prop_assert_eq!(direct.difference(&tests::run(&csv, partitions, CsvFile::TABLES)), None);
        let distinct: std::collections::BTreeSet<_> = records.iter().map(|record| &record[1]).collect();
        let answer = top_keys(direct);
        prop_assert_eq!((answer.keys, answer.rows), (distinct.len() as u64, records.len() as u64));
    }
}
