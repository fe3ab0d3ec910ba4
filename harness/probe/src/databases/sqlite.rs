//! The schema of SQLite's databases, read from their files without SQLite: its table of contents is the tree that begins
//! on page 1 (<https://www.sqlite.org/fileformat.html>), with what the write-ahead log has newer. Nothing is locked and
//! nothing is written; a file that is torn while it is read is read once more.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use redrill_state::{Section, escape};

use super::object;
use crate::found::Found;
use crate::shadow::Key;

/// Pages of a schema at most; a file that leads in circles ends here.
const PAGES: usize = 10_000;
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// The objects of these databases.
pub(crate) fn read(paths: &[PathBuf], key: &Key) -> Found {
    let mut found = Found::new(Section::Databases);
    for path in paths {
        let name = escape(path.as_os_str().as_bytes());
        match schema(path).or_else(|_| schema(path)) {
            Ok(objects) => {
                for (kind, object_name, definition) in objects {
                    found.add(object(&name, "", [&kind, &object_name, &definition], key));
                }
            }
            Err(Broken(why)) => found.gap(format!("{name}: {why}")),
        }
    }
    found
}

/// Why a file is no database that we understand.
#[derive(Debug)]
struct Broken(&'static str);

type Object = (String, String, String);

fn schema(path: &Path) -> Result<Vec<Object>, Broken> {
    let pages = Pages::open(path)?;
    let first = pages.page(1)?;
    let wide = match number(&first, 56, 4)? {
        0 | 1 => None,
        2 => Some(u16::from_le_bytes as fn([u8; 2]) -> u16),
        3 => Some(u16::from_be_bytes as fn([u8; 2]) -> u16),
        _ => return Err(Broken("an unknown encoding")),
    };
    let text = move |bytes: &[u8]| match wide {
        None => String::from_utf8_lossy(bytes).into_owned(),
        Some(read) => {
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
    };
    let mut objects = Vec::new();
    let mut waiting = vec![1];
    let mut seen = 0;
    while let Some(page_number) = waiting.pop() {
        seen += 1;
        if seen > PAGES {
            return Err(Broken("its schema has no end"));
        }
        let page = pages.page(page_number)?;
        let start = if page_number == 1 { 100 } else { 0 };
        let cells = number(&page, start + 3, 2)? as usize;
        match page.get(start) {
            Some(0x05) => {
                waiting.push(number(&page, start + 8, 4)?);
                for cell in 0..cells {
                    waiting.push(number(&page, number(&page, start + 12 + 2 * cell, 2)? as usize, 4)?);
                }
            }
            Some(0x0d) => {
                for cell in 0..cells {
                    let at = number(&page, start + 8 + 2 * cell, 2)? as usize;
                    objects.extend(object_of(&pages.payload(&page, at)?, text)?);
                }
            }
            _ => return Err(Broken("its schema is no table")),
        }
    }
    // SQLite's own tables come and go with statistics.
    objects.retain(|(_, name, _)| !name.starts_with("sqlite_"));
    objects.sort();
    Ok(objects)
}

/// Columns `type`, `name`, `tbl_name`, `rootpage`, `sql`.
fn object_of(record: &[u8], text: impl Fn(&[u8]) -> String) -> Result<Option<Object>, Broken> {
    let (header, mut at) = varint(record, 0)?;
    let mut place = usize::try_from(header).map_err(|_| Broken("a damaged record"))?;
    let mut columns = Vec::new();
    while (at as u64) < header {
        let (kind, next) = varint(record, at)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            _ => kind.saturating_sub(12) / 2,
        };
        let end = usize::try_from(length).ok().and_then(|length| place.checked_add(length));
        let value = end.and_then(|end| record.get(place..end)).ok_or(Broken("a damaged record"))?;
        columns.push(text(value));
        (at, place) = (next, place + value.len());
    }
    match columns.as_slice() {
        [kind, name, _, _, sql] => Ok(Some((kind.clone(), name.clone(), sql.clone()))),
        _ => Err(Broken("a record of another form")),
    }
}

/// The database's pages, with those of the write-ahead log before those of the file.
struct Pages {
    file: File,
    log: Option<File>,
    size: usize,
    /// Without what extensions reserve.
    usable: usize,
    /// Where the newest of a page lies in the log.
    newer: HashMap<u32, u64>,
}

impl Pages {
    fn open(path: &Path) -> Result<Self, Broken> {
        let file = File::open(path).map_err(|_| Broken("it cannot be opened"))?;
        let mut head = [0; 100];
        file.read_exact_at(&mut head, 0).map_err(|_| Broken("it is too short"))?;
        let size = match number(&head, 16, 2)? {
            1 => 65536,
            size => size as usize,
        };
        let usable = size.checked_sub(usize::from(head[20])).filter(|usable| *usable >= 480);
        let usable = usable.ok_or(Broken("impossible pages"))?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = File::open(log).ok();
        let newer = log.as_ref().map(|log| frames(log, size)).unwrap_or_default();
        Ok(Self { file, log, size, usable, newer })
    }

    fn page(&self, page: u32) -> Result<Vec<u8>, Broken> {
        let mut bytes = vec![0; self.size];
        let read = match (self.newer.get(&page), &self.log) {
            (Some(at), Some(log)) => log.read_exact_at(&mut bytes, *at),
            _ => self.file.read_exact_at(&mut bytes, u64::from(page.saturating_sub(1)) * self.size as u64),
        };
        read.map(|()| bytes).map_err(|_| Broken("a page is missing"))
    }

    /// The record of a cell; what does not fit into its page goes on in others.
    fn payload(&self, page: &[u8], at: usize) -> Result<Vec<u8>, Broken> {
        const DAMAGED: Broken = Broken("a damaged cell");
        let (length, at) = varint(page, at)?;
        let (_, at) = varint(page, at)?;
        let length = usize::try_from(length).ok().filter(|length| *length < PAGES * self.size).ok_or(DAMAGED)?;
        let most = self.usable - 35;
        let local = if length <= most {
            length
        } else {
            let least = (self.usable - 12) * 32 / 255 - 23;
            let fitting = least + (length - least) % (self.usable - 4);
            if fitting <= most { fitting } else { least }
        };
        let mut payload = page.get(at..at + local).ok_or(DAMAGED)?.to_vec();
        let mut next = if local < length { number(page, at + local, 4)? } else { 0 };
        while payload.len() < length && next != 0 {
            let page = self.page(next)?;
            let part = (length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(page.get(4..4 + part).ok_or(DAMAGED)?);
            next = number(&page, 0, 4)?;
        }
        if payload.len() == length { Ok(payload) } else { Err(DAMAGED) }
    }
}

/// Where the log has pages: frames of its present round, up to the last that ends a transaction.
fn frames(log: &File, page_size: usize) -> HashMap<u32, u64> {
    let mut head = [0; LOG_HEADER as usize];
    let (mut ended, mut open) = (HashMap::new(), HashMap::new());
    if log.read_exact_at(&mut head, 0).is_err() || head[..3] != [0x37, 0x7f, 0x06] {
        return ended;
    }
    let mut at = LOG_HEADER;
    let mut frame = [0; FRAME_HEADER as usize];
    // Salts of an earlier round: the rest is old.
    while log.read_exact_at(&mut frame, at).is_ok() && frame[8..16] == head[16..24] {
        let (page, size) = (number(&frame, 0, 4).unwrap_or(0), number(&frame, 4, 4).unwrap_or(0));
        open.insert(page, at + FRAME_HEADER);
        if size != 0 {
            ended.extend(open.drain());
        }
        at += FRAME_HEADER + page_size as u64;
    }
    ended
}

/// Big end first.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u32, Broken> {
    let part = bytes.get(at..at + length).ok_or(Broken("a page is too short"))?;
    Ok(part.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// Seven bits to a byte, the highest first; the ninth byte has eight. Returns the number and where it ends.
fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Broken> {
    let mut number = 0;
    for place in 0..9 {
        let byte = *bytes.get(at + place).ok_or(Broken("a number without end"))?;
        if place == 8 {
            return Ok((number << 8 | u64::from(byte), at + 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Ok((number, at + place + 1));
        }
    }
    Err(Broken("a number without end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    /// Made by SQLite 3.40: pages of 512 bytes, UTF-16, nine tables (one with a definition of several pages) and an index;
    /// in the log a view, and one table less.
    const FILE: &[u8] = include_bytes!("samples/utf16.db");
    const LOG: &[u8] = include_bytes!("samples/utf16.db-wal");

    fn names(objects: &[Object]) -> Vec<&str> {
        objects.iter().map(|(_, name, _)| name.as_str()).collect()
    }

    #[test]
    fn the_schema_is_read_from_file_and_log() {
        let tree = Tree::new("sqlite");
        let path = tree.file("/srv/app.db", FILE);
        let old = schema(&path).expect("a database");
        assert_eq!(names(&old), ["by_name", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "wide"]);
        let wide = &old.last().expect("one").2;
        assert!(wide.starts_with("CREATE TABLE wide (column_0") && wide.ends_with("column_59 text)"), "{wide}");
        let log = tree.file("/srv/app.db-wal", LOG);
        let new = schema(&path).expect("a database");
        assert_eq!(names(&new), ["by_name", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "wide", "later"]);
        assert_eq!(new[9], ("view".into(), "later".into(), "CREATE VIEW later as select name from t0".into()));
        // Half a transaction has not happened.
        std::fs::write(log, &LOG[..LOG.len() - 600]).expect("written");
        assert!(names(&schema(&path).expect("a database")).contains(&"t7"));
    }

    #[test]
    fn data_is_no_part_of_it_and_a_damaged_file_is_a_gap() {
        let tree = Tree::new("sqlite-damaged");
        let path = tree.file("/srv/app.db", FILE);
        let found = read(std::slice::from_ref(&path), &[1; 32]);
        assert_eq!((found.entries.len(), found.gaps.len()), (10, 0));
        for damage in [&FILE[..700], &[&FILE[..100], &[0xff; 4000]].concat(), b"SQLite format 3\0"] {
            std::fs::write(&path, damage).expect("written");
            let found = read(std::slice::from_ref(&path), &[1; 32]);
            assert_eq!((found.entries.len(), found.gaps.len()), (0, 1));
        }
    }
}
