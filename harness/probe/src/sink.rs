//! The stream that a capture is written to.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use redrill_state::{Gap, Header, Record, Same, Section};

use crate::found::Found;

/// Where sections put their entries. It counts them, so that a reader can tell that none was lost.
pub(crate) struct Sink<W: Write> {
    // The compressor takes each write as a piece of work, and serde writes a few bytes at a time.
    out: BufWriter<GzEncoder<W>>,
    counts: BTreeMap<Section, usize>,
}

impl<W: Write> Sink<W> {
    pub(crate) fn new(out: W) -> Self {
        // The fastest level: the machine is emulated, the way out is a pipe on the same host.
        let out = BufWriter::with_capacity(256 * 1024, GzEncoder::new(out, Compression::fast()));
        Self { out, counts: BTreeMap::new() }
    }

    /// Writes the first line.
    pub(crate) fn header(&mut self, header: Header) -> io::Result<()> {
        self.line(&Record::Header(header))
    }

    /// Writes one entry of its section.
    pub(crate) fn entry(&mut self, entry: impl Into<Record>) -> io::Result<()> {
        let record = entry.into();
        if let Some(section) = record.section() {
            *self.counts.entry(section).or_default() += 1;
        }
        self.line(&record)
    }

    /// Writes that these files are as the base has them.
    pub(crate) fn same(&mut self, same: Same) -> io::Result<()> {
        *self.counts.entry(Section::Files).or_default() += same.count;
        self.line(&Record::Same(same))
    }

    /// Writes all of a section.
    pub(crate) fn found(&mut self, found: Found) -> io::Result<()> {
        found.entries.into_iter().try_for_each(|entry| self.entry(entry))?;
        found.gaps.into_iter().try_for_each(|gap| self.line(&Record::Gap(gap)))?;
        found.notes.into_iter().try_for_each(|note| self.line(&Record::Note(note)))
    }

    /// Notes that a section is not whole.
    pub(crate) fn gap(&mut self, section: Section, what: impl Display) -> io::Result<()> {
        self.line(&Record::Gap(Gap { section, reason: what.to_string() }))
    }

    fn line(&mut self, record: &Record) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, record)?;
        self.out.write_all(b"\n")
    }

    /// Writes the last line.
    pub(crate) fn end(mut self) -> io::Result<()> {
        let end = Record::End(std::mem::take(&mut self.counts));
        self.line(&end)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
    }
}
