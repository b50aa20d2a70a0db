//! Gives back what only an adoption needs. An agent works for a second and then polls for weeks: what it holds meanwhile is
//! taken from the machine's pods.

use std::path::Path;

/// More than the calls from here to the kernel take of the stack, in bytes.
const FRAMES: usize = 64 * 1024;
/// No page is smaller.
const PAGE: usize = 4096;

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
    let here = 0_u8;
    if let Some(range) = unused_stack(&maps, std::ptr::from_ref(&here).expose_provenance()) {
        unmap_stack(range);
    }
}

/// The part of the main thread's stack that lies more than [`FRAMES`] below `here`, if `here` is on it: an adoption has used
/// it, and nothing is there any more.
fn unused_stack(maps: &str, here: usize) -> Option<Range> {
    let line = maps.lines().find(|line| line.ends_with(" [stack]"))?;
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    if !(start..end).contains(&here) {
        return None;
    }
    let below = here.checked_sub(FRAMES)? & !(PAGE - 1);
    let length = below.checked_sub(start)?;
    (length > 0).then_some(Range { start, length })
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

#[expect(unsafe_code, reason = "madvise(2) takes a pointer")]
fn unmap_stack(range: Range) {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is the part of this very thread's stack that ends well below the frame of the caller, so no frame
    // that is alive lies in it; what a later call finds there are pages of zeros, which it writes before it reads, as with any
    // stack that grows.
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

    #[test]
    fn only_the_stack_well_below_is_given_back() {
        let maps =
            "7ffe00000000-7ffe00100000 rw-p 00000000 00:00 0                          [stack]\n";
        let of = |here| unused_stack(maps, here).map(|r| (r.start, r.length));
        let start = 0x7ffe_0000_0000;
        assert_eq!(of(start + 0x8_0123), Some((start, 0x8_0000 - FRAMES)));
        assert_eq!(of(start + FRAMES), None, "nothing lies below");
        assert_eq!(of(start + 0x10_0000), None, "another thread's");
        assert_eq!(unused_stack("", start), None);
    }
}
