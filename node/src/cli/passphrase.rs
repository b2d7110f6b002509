//! Where passphrases of keys come from: the file that a flag names, else the terminal, without echo.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use certs::sealed::{self, SealedError};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::{
    agent::state_dir,
    cli::error::{Error, Result},
    lock::lock,
};

/// Bytes of a passphrase at most.
const LONGEST: usize = 1024;
/// How often the terminal is asked for one key.
const ATTEMPTS: usize = 3;

/// A passphrase.
pub(super) type Word = Zeroizing<String>;

/// The source of passphrases of one command; clones share what was typed.
#[derive(Debug, Clone, Default)]
pub struct Passphrase {
    file: Option<PathBuf>,
    /// What opened a key of this command: one directory's keys are mostly under one.
    typed: Arc<Mutex<Option<Word>>>,
    /// Keys that were opened, after what they lie as: to derive the key of a passphrase takes long, and a command may ask many nodes.
    opened: Arc<Mutex<Vec<(String, Word)>>>,
    /// Of keys that are made, where it is not that of the file.
    new: Option<Arc<Word>>,
}

impl Passphrase {
    /// The one in this file; without a file the terminal is asked.
    pub fn of(file: Option<PathBuf>) -> Self {
        Self { file, ..Self::default() }
    }

    /// The same, with one for keys that are made: the one in the file, else typed twice.
    ///
    /// # Errors
    /// `no_passphrase`, `key_permissions`.
    pub(super) fn for_new_keys(self) -> Result<Self> {
        let new = Some(Arc::new(Self::fresh(self.file.as_deref())?));
        Ok(Self { new, ..self })
    }

    /// Under which keys are written that are made, if under any.
    ///
    /// # Errors
    /// `no_passphrase`, `key_permissions`.
    pub(super) fn of_new_keys(&self) -> Result<Option<Word>> {
        match &self.new {
            Some(word) => Ok(Some(Word::clone(word))),
            None => self.in_file(),
        }
    }

    /// The one in the file, where a file is named.
    ///
    /// # Errors
    /// `no_passphrase`, `key_permissions`.
    fn in_file(&self) -> Result<Option<Word>> {
        self.file.as_deref().map(read).transpose()
    }

    /// The one in the file, else what opened another key of this command: a key made beside that one goes under it, too.
    ///
    /// # Errors
    /// As [`Self::in_file`].
    pub(super) fn known(&self) -> Result<Option<Word>> {
        let typed = || lock(&self.typed).clone();
        Ok(self.in_file()?.or_else(typed))
    }

    /// A sealed key's text in the clear.
    ///
    /// # Errors
    /// `no_passphrase`: none is given and there is no terminal, or it is another one.
    pub(super) fn open(&self, path: &Path, text: &str) -> Result<Zeroizing<String>> {
        let mut opened = lock(&self.opened);
        if let Some((_, key)) = opened.iter().find(|(sealed, _)| sealed == text) {
            return Ok(key.clone());
        }
        let key = self.derive(path, text)?;
        opened.push((text.to_owned(), key.clone()));
        Ok(key)
    }

    fn derive(&self, path: &Path, text: &str) -> Result<Word> {
        let failed = |error: SealedError, hint: &str| {
            Error::new("no_passphrase", format!("{}: {error}", path.display())).hint(hint)
        };
        if let Some(word) = self.in_file()? {
            let hint = "is it the right file? a line end after the passphrase is left out";
            return sealed::open(text, word.as_bytes()).map_err(|error| failed(error, hint));
        }
        let mut typed = lock(&self.typed);
        if let Some(opened) = typed.as_ref().and_then(|word| sealed::open(text, word.as_bytes()).ok()) {
            return Ok(opened);
        }
        let mut last = SealedError::Passphrase;
        for _ in 0..ATTEMPTS {
            let Some(word) = ask(&format!("Passphrase of {}: ", path.display()))? else {
                return Err(Error::new("no_passphrase", format!("{} is under a passphrase", path.display())).hint(
                    "give the file that holds it with --passphrase-file FILE, or run the command at a terminal",
                ));
            };
            match sealed::open(text, word.as_bytes()) {
                Ok(opened) => {
                    *typed = Some(word);
                    return Ok(opened);
                }
                Err(SealedError::Passphrase) => say("that does not open it\n"),
                Err(error) => {
                    last = error;
                    break;
                }
            }
        }
        Err(failed(last, "the key stays closed; nothing was done"))
    }

    /// A new passphrase: the one in `file`, else typed twice.
    ///
    /// # Errors
    /// `no_passphrase`: none is given and there is no terminal, or the two differ.
    pub(super) fn fresh(file: Option<&Path>) -> Result<Word> {
        if let Some(file) = file {
            return read(file);
        }
        let none = || {
            Error::new("no_passphrase", "no new passphrase is given, and standard input is no terminal")
                .hint("give it in a file of mode 0600")
        };
        let first = ask("New passphrase: ")?.ok_or_else(none)?;
        if first.is_empty() {
            return Err(Error::new("no_passphrase", "an empty passphrase protects nothing")
                .hint("`skein operator unseal` takes the passphrase off"));
        }
        let again = ask("Again: ")?.ok_or_else(none)?;
        if *first == *again {
            return Ok(first);
        }
        Err(Error::new("no_passphrase", "the two differ").hint("nothing was changed; try again"))
    }
}

fn read(path: &Path) -> Result<Word> {
    let text = state_dir::read_private(path)?
        .ok_or_else(|| Error::new("no_passphrase", format!("there is no {}", path.display())))?;
    let word = text.trim_end_matches(['\r', '\n']);
    if word.is_empty() {
        return Err(Error::new("no_passphrase", format!("{} holds no passphrase", path.display())));
    }
    Ok(Zeroizing::new(word.to_owned()))
}

fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody reads a closed standard error.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Asks at the terminal; none if standard input is none.
fn ask(prompt: &str) -> Result<Option<Word>> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| Error::new("failed", format!("the terminal cannot be asked: {error}"));
    let _quiet = Quiet::begin().map_err(|error| failed(&error))?;
    say(prompt);
    let word = line(input.lock().bytes().map_while(std::result::Result::ok));
    say("\n");
    match word {
        Some(word) => Ok(Some(word)),
        None => Err(Error::new("no_passphrase", "no passphrase was given").hint("nothing was done")),
    }
}

/// A line of a terminal that edits nothing itself; none if it was broken off.
fn line(bytes: impl Iterator<Item = u8>) -> Option<Word> {
    let mut typed: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(LONGEST));
    for byte in bytes {
        match byte {
            b'\r' | b'\n' => return String::from_utf8(typed.to_vec()).ok().map(Zeroizing::new),
            // Ctrl-C and Ctrl-D.
            0x03 | 0x04 => return None,
            // Backspace takes a whole character.
            0x08 | 0x7f => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Ctrl-U.
            0x15 => typed.clear(),
            _ if typed.len() == LONGEST => return None,
            byte => typed.push(byte),
        }
    }
    None
}

/// A terminal that shows nothing and sends no signals, until dropped: one that is left by a signal would stay silent.
struct Quiet {
    before: Termios,
}

impl Quiet {
    fn begin() -> nix::Result<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(&input)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&input, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nobody to tell whose terminal went away.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_once_is_not_derived_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        let with = |word: &str| {
            std::fs::write(&file, word).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        };
        with("horse");
        let key = certs::sign::SigningKey::generate().to_pem();
        let sealed = sealed::seal(&key, b"horse").unwrap();
        let passphrase = Passphrase::of(Some(file.clone()));
        assert_eq!(*passphrase.open(&file, &sealed).unwrap(), *key);
        with("donkey");
        // A clone is of the same command.
        assert_eq!(*passphrase.clone().open(&file, &sealed).unwrap(), *key);
        assert_eq!(Passphrase::of(Some(file.clone())).open(&file, &sealed).unwrap_err().code, "no_passphrase");
    }

    #[test]
    fn a_line_is_edited_as_a_terminal_would() {
        let read = |text: &str| line(text.bytes()).map(|word| word.to_string());
        for (text, wanted) in [
            ("horse\n", Some("horse")),
            ("horse\rmore", Some("horse")),
            ("hoo\u{7f}rse\n", Some("horse")),
            ("hü\u{7f}\u{7f}\u{7f}x\n", Some("x")),
            ("wrong\u{15}right\n", Some("right")),
            ("\n", Some("")),
            ("horse\u{3}\n", None),
            ("\u{4}", None),
            ("no end", None),
        ] {
            assert_eq!(read(text).as_deref(), wanted, "{text:?}");
        }
        assert_eq!(read(&("x".repeat(LONGEST + 1) + "\n")), None);
        assert_eq!(line([0xff, b'\n'].into_iter()), None);
    }
}
