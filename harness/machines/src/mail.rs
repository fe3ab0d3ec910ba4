//! The sink for mail that a machine sends: it accepts what a client of SMTP says (RFC 5321), counts it, and delivers it
//! to nobody.
//!
//! Names of mail servers lead to it, see [`crate::stand_in`]; on a unix socket in the machine's directory [`serve`] answers.
//! TLS is not offered; whoever signs in is believed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::relay;

/// Relaying and submission.
pub(crate) const PORTS: [u16; 2] = [25, 587];
/// In the machine's directory.
pub(crate) const SOCKET: &str = "mail.sock";

/// RFC 5321, section 4.5.3.1.6 asks for 1000; headers of some programs are longer.
const LONGEST_LINE: u64 = 64 * 1024;
/// Of a subject, or of an address.
const KEPT: usize = 200;
/// Recipients of one message; more are counted.
const RECIPIENTS: usize = 100;
/// A client that says nothing for so long is gone. RFC 5321, section 4.5.3.2.7.
const PATIENCE: Duration = Duration::from_secs(300);

/// A message that was caught. Its text is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    /// The machine's directory.
    pub from: PathBuf,
    /// When it was accepted.
    pub at: Option<SystemTime>,
    /// Its envelope's sender; empty for a notice of failure.
    pub sender: String,
    /// Those it was for: the first of them.
    pub recipients: Vec<String>,
    /// How many there were.
    pub addressed: usize,
    /// As it was written, in one line.
    pub subject: String,
    /// Its size.
    pub bytes: u64,
}

type OnMail = Arc<dyn Fn(Mail) + Send + Sync>;

/// The names whose mail is caught, and who is told of it.
#[derive(Clone)]
pub struct MailNames {
    /// Host names of mail servers.
    pub names: Vec<String>,
    taken: OnMail,
}

impl MailNames {
    /// `taken` is called for each message, from any thread.
    pub fn new(names: Vec<String>, taken: impl Fn(Mail) + Send + Sync + 'static) -> Self {
        Self { names, taken: Arc::new(taken) }
    }
}

impl fmt::Debug for MailNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailNames").field("names", &self.names).finish_non_exhaustive()
    }
}

impl PartialEq for MailNames {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names && Arc::ptr_eq(&self.taken, &other.taken)
    }
}

impl Eq for MailNames {}

/// Answers on [`SOCKET`] in `at` until the returned task is dropped. What comes is that of the machine in `dir`.
pub(crate) fn serve(at: &Path, dir: &Path, names: &MailNames) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = relay::listen(at, SOCKET)?;
    let (dir, names) = (dir.to_owned(), names.clone());
    Ok(tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (dir, names) = (dir.clone(), names.clone());
            // A broken connection is the client's to notice: it sees the end of the stream.
            tokio::spawn(async move { converse(client, &dir, &names).await });
        }
    }))
}

/// What has been said of the message that is coming.
#[derive(Debug, Default)]
struct Envelope {
    sender: Option<String>,
    recipients: Vec<String>,
    addressed: usize,
}

/// One client, from greeting to farewell.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, dir: &Path, names: &MailNames) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut envelope = Envelope::default();
    say(&mut stream, "220 redrill ESMTP: mail is caught here, and goes nowhere").await?;
    while let Some(line) = line(&mut stream).await? {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "HELO" => say(&mut stream, "250 redrill").await?,
            "EHLO" => {
                envelope = Envelope::default();
                let offered = "250-redrill\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN";
                say(&mut stream, offered).await?;
            }
            "AUTH" => sign_in(&mut stream, rest).await?,
            "MAIL" => {
                envelope = Envelope { sender: Some(address(rest)), ..Envelope::default() };
                say(&mut stream, "250 2.1.0 ok").await?;
            }
            "RCPT" if envelope.sender.is_some() => {
                envelope.addressed += 1;
                if envelope.recipients.len() < RECIPIENTS {
                    envelope.recipients.push(address(rest));
                }
                say(&mut stream, "250 2.1.5 ok").await?;
            }
            "DATA" if envelope.addressed > 0 => {
                say(&mut stream, "354 end with a dot").await?;
                let (subject, bytes) = message(&mut stream).await?;
                let Envelope { sender, recipients, addressed } = std::mem::take(&mut envelope);
                let (from, at, sender) = (dir.to_owned(), Some(SystemTime::now()), sender.unwrap_or_default());
                (names.taken)(Mail { from, at, sender, recipients, addressed, subject, bytes });
                say(&mut stream, "250 2.0.0 caught, and delivered to nobody").await?;
            }
            "RCPT" | "DATA" => say(&mut stream, "503 5.5.1 not yet").await?,
            "RSET" => {
                envelope = Envelope::default();
                say(&mut stream, "250 2.0.0 ok").await?;
            }
            "NOOP" => say(&mut stream, "250 2.0.0 ok").await?,
            "VRFY" => say(&mut stream, "252 2.1.5 whoever that is").await?,
            "QUIT" => return say(&mut stream, "221 2.0.0 bye").await,
            _ => say(&mut stream, "502 5.5.1 not here").await?,
        }
    }
    Ok(())
}

/// Everybody is believed; what was said is dropped unread.
async fn sign_in(stream: &mut (impl AsyncBufRead + AsyncWrite + Unpin), rest: &str) -> io::Result<()> {
    let (kind, initial) = rest.split_once(' ').unwrap_or((rest, ""));
    let questions: &[&str] = match (kind.to_ascii_uppercase().as_str(), initial) {
        ("PLAIN", "") => &["334 "],
        ("PLAIN", _) => &[],
        ("LOGIN", "") => &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"],
        ("LOGIN", _) => &["334 UGFzc3dvcmQ6"],
        _ => return say(stream, "504 5.5.4 PLAIN or LOGIN").await,
    };
    for question in questions {
        say(stream, question).await?;
        if line(stream).await?.is_none() {
            return Ok(());
        }
    }
    say(stream, "235 2.7.0 whoever you are").await
}

/// Subject and size of a message, up to the dot that ends it.
async fn message(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<(String, u64)> {
    let (mut subject, mut bytes) = (None::<String>, 0);
    let (mut head, mut unfolding) = (true, false);
    loop {
        let line = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if matches!(line.as_slice(), b".\r\n" | b".\n") {
            let subject = subject.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            return Ok((short(&subject), bytes));
        }
        // A dot at the beginning of a line is doubled on the way. RFC 5321, section 4.5.2.
        let line = line.strip_prefix(b".").unwrap_or(&line);
        bytes += line.len() as u64;
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        head &= !text.is_empty();
        if !head {
            continue;
        }
        if unfolding && text.starts_with([' ', '\t']) {
            subject.iter_mut().for_each(|subject| subject.push_str(text));
            continue;
        }
        unfolding = false;
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("subject")
            && subject.is_none()
        {
            (subject, unfolding) = (Some(value.to_owned()), true);
        }
    }
}

/// `FROM:<ada@example.org> SIZE=12` without all but the address.
fn address(text: &str) -> String {
    let after = text.split_once(':').map_or(text, |(_, after)| after).trim();
    let inner = after.strip_prefix('<').and_then(|rest| rest.split('>').next());
    short(inner.unwrap_or_else(|| after.split(' ').next().unwrap_or_default()))
}

/// One line of printable text, no longer than what is kept.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(KEPT).collect()
}

/// With its ending; `None` at the end of the stream. One that is too long comes in pieces, of which none is a command.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let reading = async { stream.take(LONGEST_LINE).read_until(b'\n', &mut line).await };
    let read = tokio::time::timeout(PATIENCE, reading).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok((read > 0).then_some(line))
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// What the sink answers to all of this at once, and what it caught.
    async fn said(client: &str) -> (Vec<String>, Vec<Mail>) {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let caught: Arc<Mutex<Vec<Mail>>> = Arc::default();
        let post = MailNames::new(vec!["smtp.example.org".into()], {
            let caught = Arc::clone(&caught);
            move |mail| caught.lock().expect("no panic").push(mail)
        });
        ours.write_all(client.replace('\n', "\r\n").as_bytes()).await.expect("sent");
        ours.shutdown().await.expect("ended");
        // A client that hangs up early is told nothing more.
        let _ = converse(theirs, Path::new("/run/web"), &post).await;
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.expect("answered");
        let codes = answer.lines().map(|line| line.chars().take(4).collect::<String>().trim().to_owned());
        let caught = caught.lock().expect("no panic").clone();
        (codes.collect(), caught)
    }

    #[tokio::test]
    async fn a_message_is_caught_with_its_envelope_and_subject() {
        let (codes, caught) = said(
            "EHLO web\nMAIL FROM:<notes@example.org> SIZE=120\nRCPT TO:<ada@example.org>\nRCPT TO: ben@example.org\n\
             DATA\nTo: all\nsubject: Your bill\n\tof May\nX: y\n\nSubject: none of this\n..\nend\n.\nQUIT\n",
        )
        .await;
        assert_eq!(codes, ["220", "250-", "250-", "250-", "250-", "250", "250", "250", "250", "354", "250", "221"]);
        assert_eq!(caught.len(), 1);
        let mail = &caught[0];
        assert_eq!((mail.sender.as_str(), mail.subject.as_str()), ("notes@example.org", "Your bill of May"));
        assert_eq!(mail.recipients, ["ada@example.org", "ben@example.org"]);
        assert_eq!((mail.addressed, mail.from.as_path()), (2, Path::new("/run/web")));
        assert_eq!(
            mail.bytes,
            "To: all\r\nsubject: Your bill\r\n\tof May\r\nX: y\r\n\r\nSubject: none of this\r\n.\r\nend\r\n".len()
                as u64
        );
    }

    #[tokio::test]
    async fn several_messages_and_a_notice_of_failure_come_over_one_connection() {
        let one = "MAIL FROM:<>\nRCPT TO:<ada@example.org>\nDATA\n\nbody\n.\n";
        let (_, caught) = said(&format!("HELO web\n{one}RSET\n{one}")).await;
        let senders: Vec<_> = caught.iter().map(|mail| (mail.sender.as_str(), mail.subject.as_str())).collect();
        assert_eq!(senders, [("", ""), ("", "")]);
    }

    #[tokio::test]
    async fn whoever_signs_in_is_believed() {
        let (codes, _) = said("AUTH PLAIN AGEAYg==\nAUTH PLAIN\nAGEAYg==\nAUTH LOGIN\nYQ==\nYg==\nAUTH GSSAPI\n").await;
        assert_eq!(codes, ["220", "235", "334", "235", "334", "334", "235", "504"]);
    }

    #[tokio::test]
    async fn what_is_out_of_order_unknown_or_cut_off_is_no_message() {
        let (codes, caught) =
            said("RCPT TO:<a@b>\nDATA\nSTARTTLS\nMAIL FROM:<a@b>\nDATA\nRCPT TO:<c@d>\nDATA\nhalf\n").await;
        assert_eq!(codes, ["220", "503", "503", "502", "250", "503", "250", "354"]);
        assert_eq!(caught, []);
    }

    #[test]
    fn what_is_kept_is_short_and_one_line() {
        assert_eq!(short(&"x".repeat(1000)).len(), KEPT);
        assert_eq!(short("a\u{1b}[31mb"), "a[31mb");
        assert_eq!(address("FROM:<a@b>"), "a@b");
    }
}
