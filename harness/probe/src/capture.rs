//! Writes a capture: every section in turn, compressed, as a stream.

use std::io::{self, Write};

use redrill_state::{Header, Record};

use crate::sink::Sink;
use crate::{accounts, files, mounts, packages, sockets, units};

/// Writes the whole capture to `out`. An error means that nobody reads it any more; what the machine refuses is a gap.
pub(crate) fn write(out: impl Write) -> io::Result<()> {
    let clock = crate::now();
    let mounts = mounts::read()?;
    let mut sink = Sink::new(out);
    let mut header = Header::new(crate::boot_id(), clock);
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
