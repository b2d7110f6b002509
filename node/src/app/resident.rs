//! What only a start needs does not stay in memory: the kernel maps code in pieces of 64 KiB round whatever runs, and most of what runs at
//! a start (certificates, the fold of all policy, the command line) does not run again for long.

use std::{ffi::c_void, io, ptr::NonNull, time::Duration};

use nix::sys::mman::{MmapAdvise, madvise};

use crate::tasks::Tasks;

/// When a node that serves has done what only its start needs: it has certificates, policy and links. The second time is for a mesh whose
/// nodes start together, one after the other.
const STARTED: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(50)];

/// Gives back what the start needed, once it is over.
pub(super) fn give_back_after_start(tasks: &Tasks) {
    tasks.detach("resident", async {
        for pause in STARTED {
            tokio::time::sleep(pause).await;
            if let Err(error) = give_back_code() {
                tracing::debug!("code that only the start needed stays in memory: {error}");
            }
        }
    });
}

/// Unmaps the pages of this program's code; those that run come back from the page cache as they do.
fn give_back_code() -> io::Result<()> {
    let here = give_back_code as fn() -> io::Result<()> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let Some((begin, length)) = maps.lines().find_map(|line| code(line, here)) else { return Ok(()) };
    let Some(begin) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(begin)) else { return Ok(()) };
    #[expect(unsafe_code, reason = "the kernel cannot know what the pages hold")]
    // SAFETY: the mapping is of a file, private, and was never writable (see `code`), so that each page is in the file as it is in memory.
    unsafe { madvise(begin, length, MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

/// Begin and length of the mapping of that line if it is of a file, private, can be executed and not be written, and holds this address.
fn code(line: &str, address: usize) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, inode) = (words.next()?, words.next()?, words.nth(2)?);
    let (begin, end) = range.split_once('-')?;
    let (begin, end) = (usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (rights == "r-xp" && inode != "0" && (begin..end).contains(&address)).then_some((begin, end - begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_a_file_is_given_back() {
        let code_line = "55d0a0000000-55d0a2000000 r-xp 00a00000 fe:00 123456                     /usr/bin/skein";
        assert_eq!(code(code_line, 0x55d0_a000_0010), Some((0x55d0_a000_0000, 0x200_0000)));
        assert_eq!(code(code_line, 0x55d0_a200_0000), None, "beyond it");
        for rights in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(code(&code_line.replace("r-xp", rights), 0x55d0_a000_0010), None, "{rights}");
        }
        assert_eq!(code("55d0a0000000-55d0a2000000 r-xp 00000000 00:00 0", 0x55d0_a000_0010), None, "no file");
    }

    /// Bytes of this program's code that are mapped.
    fn mapped() -> usize {
        let here = format!("{:x}", give_back_code as fn() -> io::Result<()> as usize);
        let here = usize::from_str_radix(&here, 16).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut own = smaps.lines().skip_while(|line| code(line, here).is_none());
        let resident = own.find_map(|line| line.strip_prefix("Rss:")).expect("the program's own code");
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn code_goes_and_comes_back() {
        let before = mapped();
        give_back_code().unwrap();
        assert!(mapped() < before, "less than {before} KiB");
    }
}
