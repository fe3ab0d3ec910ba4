//! Writes a capture: every section in turn, compressed, as a stream.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use redrill_state::{Gap, Header, Record, Section};

use crate::{accounts, files, mounts, packages, sockets, units};

/// Where sections put their entries. It counts them, so that a reader can tell that none was lost.
pub(crate) struct Sink<W: Write> {
    // The compressor takes each write as a piece of work, and serde writes a few bytes at a time.
    out: BufWriter<GzEncoder<W>>,
    counts: BTreeMap<Section, usize>,
}

impl<W: Write> Sink<W> {
    fn new(out: W) -> Self {
        // The fastest level: the machine is emulated, the way out is a pipe on the same host.
        let out = BufWriter::with_capacity(256 * 1024, GzEncoder::new(out, Compression::fast()));
        Self { out, counts: BTreeMap::new() }
    }

    /// Writes one entry of a section.
    pub(crate) fn entry(&mut self, section: Section, record: &Record) -> io::Result<()> {
        *self.counts.entry(section).or_default() += 1;
        self.record(record)
    }

    /// Notes that a section is not whole.
    pub(crate) fn gap(&mut self, section: Section, what: impl Display) -> io::Result<()> {
        self.record(&Record::Gap(Gap { section, reason: what.to_string() }))
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, record)?;
        self.out.write_all(b"\n")
    }

    fn end(mut self) -> io::Result<()> {
        let end = Record::End(std::mem::take(&mut self.counts));
        self.record(&end)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?.flush()
    }
}

/// Writes the whole capture to `out`. An error means that nobody reads it any more; what the machine refuses is a gap.
pub(crate) fn write(out: impl Write) -> io::Result<()> {
    let clock = crate::now();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mounts = mounts::read()?;
    let mut sink = Sink::new(out);
    let mut header = Header::new(boot_id.trim().to_owned(), clock);
    header.walked.clone_from(&mounts.walked);
    header.left_out.clone_from(&mounts.left_out);
    sink.record(&Record::Header(header))?;
    // Units first: they are what a capture itself disturbs soonest.
    units::write(&mut sink)?;
    sockets::write(&mut sink)?;
    packages::write(&mut sink)?;
    accounts::write(&mut sink)?;
    files::write(&mut sink, &mounts, clock)?;
    sink.end()
}
