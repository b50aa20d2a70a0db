//! Gives back what only an adoption needs. An agent works for a second and then polls for weeks: what it holds meanwhile is
//! taken from the machine's pods.

use std::path::Path;

/// A part of this process's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: usize,
    length: usize,
}

/// Hands free heap pages back to the kernel, and drops the mapping of the program's own code and constants: what is still used
/// is mapped again, page by page, from the page cache, in which it stays.
pub(crate) fn give_back() {
    trim_heap();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    for range in unwritten_of(&program, &maps) {
        unmap(range);
    }
}

/// The mappings of `program` that were never written: its code, and the segment that its file begins with (headers and
/// constants). A later one without the right to write is what the relocations were written to (RELRO) before.
fn unwritten_of(program: &Path, maps: &str) -> Vec<Range> {
    // proc(5): address permissions offset device inode path
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (permissions, offset) = (fields.next()?, fields.next()?);
        let path = fields.nth(2)?;
        let is_unwritten = match permissions {
            "r-xp" => true,
            "r--p" => offset.bytes().all(|digit| digit == b'0'),
            _ => false,
        };
        if !is_unwritten || Path::new(path) != program {
            return None;
        }
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let length = end.checked_sub(start)?;
        Some(Range { start, length })
    };
    maps.lines().filter_map(range).collect()
}

#[expect(unsafe_code, reason = "malloc_trim(3) is glibc's, and nobody wraps it")]
fn trim_heap() {
    // SAFETY: it takes no pointer, may be called at any time from any thread, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[expect(unsafe_code, reason = "madvise(2) takes a pointer")]
fn unmap(range: Range) {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is a private mapping of a file, without the right to write and so never written (the binary has no
    // text relocations): MADV_DONTNEED makes the next access read the same bytes from the file again. That the file is
    // replaced does not matter: the mapping keeps its inode. An error leaves things as they are.
    unsafe {
        libc::madvise(start, range.length, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_program_never_writes_is_named() {
        let maps = "\
            7ffb91400000-7ffb91776000 r--p 00000000 fe:00 10010807                   /opt/agent\n\
            7ffb91776000-7ffb91f1a000 r-xp 00375000 fe:00 10010807                   /opt/agent\n\
            7ffb91f1a000-7ffb91f90000 r--p 00b18000 fe:00 10010807                   /opt/agent\n\
            7ffb91f90000-7ffb91f9a000 rw-p 00b8d000 fe:00 10010807                   /opt/agent\n\
            7ffb92000000-7ffb92001000 rwxp 00000000 fe:00 10010807                   /opt/agent\n\
            7ffb92100000-7ffb92101000 r-xp 00000000 fe:00 10010808                   /usr/lib/libc.so.6\n\
            7ffb92200000-7ffb92201000 r-xp 00000000 00:00 0                          [vdso]\n\
            7ffb92300000-7ffb92301000 r-xp 00000000 00:00 0\n\
            not a line\n";
        let constants = Range {
            start: 0x7ffb_9140_0000,
            length: 0x37_6000,
        };
        let code = Range {
            start: 0x7ffb_9177_6000,
            length: 0x7a_4000,
        };
        let found = unwritten_of(Path::new("/opt/agent"), maps);
        assert_eq!(found, [constants, code]);
    }

    #[test]
    fn the_program_goes_on() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|l| l.starts_with("RssFile")).unwrap();
            let kib = line.split_ascii_whitespace().nth(1).unwrap();
            kib.parse::<u64>().unwrap()
        };
        let before = resident();
        give_back();
        assert!(resident() < before, "{before} KiB before");
        assert!(resident() > 0);
    }
}
