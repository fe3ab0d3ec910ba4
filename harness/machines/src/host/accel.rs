//! Which acceleration to use: found by running a few instructions in QEMU and timing them.
//!
//! That `/dev/kvm` exists, or even opens, proves nothing: under some nested hypervisors it does, and runs a guest
//! thousands of times slower than the host (measured: 1.7 s for a million loops against 0.35 ms).

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::error::MachineError;
use crate::process::Guard;

/// How QEMU runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualization.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accel {
    /// The name QEMU gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What a trial of one acceleration gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Trial {
    /// The loop took this long, in seconds, less what starting QEMU takes.
    Ran(f64),
    /// It did not end within the limit.
    TooSlow(Duration),
    /// QEMU refused.
    Refused(String),
}

/// The choice, and its grounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acceleration {
    /// What machines will use.
    pub choice: Accel,
    /// One sentence.
    pub reason: String,
    /// By how much time limits are stretched; 1 is a host with hardware virtualization.
    pub slowness: f64,
    /// Trial of hardware virtualization.
    pub kvm: Trial,
    /// Trial of emulation.
    pub tcg: Trial,
}

impl Acceleration {
    /// What an earlier trial found, if the host has not been booted since. Only with the QEMU of that trial is it what a
    /// new trial would find; without a version it is what is known so far.
    pub fn remembered(cache: &Path, qemu: Option<&str>) -> Option<Self> {
        let text = std::fs::read(cache.join(REMEMBERED)).ok()?;
        let known: Remembered = serde_json::from_slice(&text).ok()?;
        let same = known.boot_id == boot_id() && qemu.is_none_or(|qemu| known.qemu == qemu);
        same.then_some(known.found)
    }

    /// Keeps it for those who ask later. What is not remembered is tried again: slower, not wrong.
    pub fn remember(&self, cache: &Path, qemu: &str) {
        let known = Remembered { boot_id: boot_id(), qemu: qemu.to_owned(), found: self.clone() };
        let _ = serde_json::to_vec(&known).map(|text| std::fs::write(cache.join(REMEMBERED), text));
    }
}

/// In the cache: what the last trial found.
const REMEMBERED: &str = "acceleration.json";

#[derive(Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    qemu: String,
    found: Acceleration,
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Turns of the loop: about a tenth of a second under emulation, a few hundredths with hardware.
const TURNS: u32 = 50_000_000;
/// Hundred times what emulation takes: a hypervisor that needs longer is no help.
const PATIENCE: Duration = Duration::from_secs(8);
/// What [`TURNS`] take under emulation on the machine that the default limits were measured on, in seconds.
const REFERENCE_TCG: f64 = 0.2;
/// How much longer a Debian boot takes under emulation than with hardware virtualization (measured: 20-50 s to 3-5 s).
const TCG_FACTOR: f64 = 8.0;

/// Runs the trials, under a guard. `scratch` is a directory for the tiny firmware.
pub async fn probe_acceleration(guard: &Guard, scratch: &Path) -> Result<Acceleration, MachineError> {
    let tcg = trial(guard, scratch, Accel::Tcg).await?;
    let Trial::Ran(emulated) = tcg else {
        let said = match tcg {
            Trial::Refused(said) => said,
            _ => format!("a loop of {TURNS} turns did not end within {PATIENCE:?} under emulation"),
        };
        return Err(MachineError::Program { program: "qemu-system-x86_64".to_owned(), said });
    };
    let kvm = trial(guard, scratch, Accel::Kvm).await?;
    let (choice, reason) = choose(&kvm, emulated);
    let slowness = match choice {
        Accel::Kvm => 1.0,
        Accel::Tcg => TCG_FACTOR * (emulated / REFERENCE_TCG).max(1.0),
    };
    Ok(Acceleration { choice, reason, slowness, kvm, tcg: Trial::Ran(emulated) })
}

fn choose(kvm: &Trial, emulated: f64) -> (Accel, String) {
    match kvm {
        Trial::Ran(seconds) if *seconds <= emulated => (
            Accel::Kvm,
            format!("hardware virtualization ran the trial in {seconds:.2} s, emulation in {emulated:.2} s"),
        ),
        Trial::Ran(seconds) => {
            let text =
                format!("hardware virtualization is slower than emulation here ({seconds:.2} s to {emulated:.2} s)");
            (Accel::Tcg, text)
        }
        Trial::TooSlow(limit) => {
            let text = format!(
                "/dev/kvm opens, but did not finish in {} s what emulation did in {emulated:.2} s",
                limit.as_secs()
            );
            (Accel::Tcg, text)
        }
        Trial::Refused(said) => (Accel::Tcg, format!("no hardware virtualization: {said}")),
    }
}

async fn trial(guard: &Guard, scratch: &Path, accel: Accel) -> Result<Trial, MachineError> {
    if accel == Accel::Kvm && !Path::new("/dev/kvm").exists() {
        return Ok(Trial::Refused("there is no /dev/kvm".to_owned()));
    }
    let idle = match run(guard, scratch, accel, 1).await? {
        Trial::Ran(seconds) => seconds,
        other => return Ok(other),
    };
    Ok(match run(guard, scratch, accel, TURNS).await? {
        Trial::Ran(seconds) => Trial::Ran((seconds - idle).max(0.0)),
        other => other,
    })
}

async fn run(guard: &Guard, scratch: &Path, accel: Accel, turns: u32) -> Result<Trial, MachineError> {
    let firmware = scratch.join(format!("trial-{}-{turns}.bin", std::process::id()));
    std::fs::write(&firmware, firmware_image(turns)).map_err(MachineError::io("cannot write the trial's firmware"))?;
    let mut command = guard.command("qemu-system-x86_64");
    command.args(["-accel", accel.name(), "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-bios"]).arg(&firmware);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let ended = ended(guard, &mut command).await;
    let took = began.elapsed();
    let _ = std::fs::remove_file(&firmware);
    Ok(match ended? {
        None => Trial::TooSlow(PATIENCE),
        Some((Some(DONE), _)) => Trial::Ran(took.as_secs_f64()),
        Some((status, said)) => {
            let said = said.lines().next().unwrap_or("QEMU said nothing").to_owned();
            Trial::Refused(format!("{said} (exit status {})", status.unwrap_or(-1)))
        }
    })
}

/// Exit status and words of QEMU; `None` if it had to be killed.
async fn ended(
    guard: &Guard,
    command: &mut tokio::process::Command,
) -> Result<Option<(Option<i32>, String)>, MachineError> {
    let mut process = guard.spawn(command, "qemu-system-x86_64")?;
    let stderr = process.child().stderr.take();
    let end = async {
        let mut said = String::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_string(&mut said).await; // The exit status tells the rest.
        }
        (process.wait().await.ok().and_then(|status| status.code()), said)
    };
    match tokio::time::timeout(PATIENCE, end).await {
        Ok(ended) => Ok(Some(ended)),
        Err(_) => {
            let _ = process.kill().await;
            Ok(None)
        }
    }
}

/// `isa-debug-exit` ends QEMU with twice the written value plus one.
const DONE: i32 = 0x21;

/// A firmware of 64 KiB whose only act is to count down and to write 0x10 to the exit port.
fn firmware_image(turns: u32) -> Vec<u8> {
    let [a, b, c, d] = turns.to_le_bytes();
    let code = [
        0x66, 0xb9, a, b, c, d, // mov ecx, turns
        0x66, 0x49, // dec ecx
        0x75, 0xfc, // jnz to the line above
        0xb0, 0x10, // mov al, 0x10
        0xe6, 0xf4, // out 0xf4, al
        0xf4, // hlt
    ];
    let mut image = vec![0xf4; 64 * 1024];
    image[..code.len()].copy_from_slice(&code);
    // The processor starts 16 bytes below the end: a far jump to the beginning of the segment.
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_remembered_until_the_host_or_qemu_is_another() {
        let cache = tempfile::tempdir().expect("a directory");
        let (choice, reason) = choose(&Trial::Ran(0.02), 0.2);
        let found = Acceleration { choice, reason, slowness: 1.0, kvm: Trial::Ran(0.02), tcg: Trial::Ran(0.2) };
        assert_eq!(Acceleration::remembered(cache.path(), None), None);
        found.remember(cache.path(), "10.0.2");
        assert_eq!(Acceleration::remembered(cache.path(), Some("10.0.2")), Some(found.clone()));
        assert_eq!(Acceleration::remembered(cache.path(), Some("10.0.3")), None);
        assert_eq!(Acceleration::remembered(cache.path(), None), Some(found));
        let file = cache.path().join(REMEMBERED);
        let text = std::fs::read_to_string(&file).expect("written").replace(boot_id().trim(), "another");
        std::fs::write(&file, text).expect("written");
        assert_eq!(Acceleration::remembered(cache.path(), None), None);
    }

    #[test]
    fn only_what_ran_faster_than_emulation_is_chosen() {
        assert_eq!(choose(&Trial::Ran(0.02), 0.2).0, Accel::Kvm);
        assert_eq!(choose(&Trial::Ran(0.3), 0.2).0, Accel::Tcg);
        let (accel, reason) = choose(&Trial::TooSlow(Duration::from_secs(8)), 0.2);
        assert_eq!(accel, Accel::Tcg);
        assert!(reason.contains("opens, but"), "{reason}");
        assert!(choose(&Trial::Refused("permission denied".into()), 0.2).1.contains("permission denied"));
    }
}
