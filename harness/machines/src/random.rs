//! Numbers that nobody can foresee, from the kernel.

use std::fmt::Write;

/// That many random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // The kernel's generator is seeded long before anything of ours runs; a signal may cut the call short.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

/// The key of a run: what is told of a secret is a digest that only this key makes.
pub fn run_key() -> [u8; 32] {
    bytes()
}

/// 32 hexadecimal digits.
pub(crate) fn hex() -> String {
    bytes::<16>().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A hardware address: locally administered, of one machine.
pub(crate) fn hardware_address() -> String {
    let [a, b, c] = bytes();
    // QEMU's own prefix (52:54:00) is the customary one for machines of emulators.
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}
