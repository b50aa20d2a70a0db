//! As much of an ELF file's head as says whether a machine can run it by itself.

/// `PT_INTERP`: the program's loader, which every dynamically linked program names.
const INTERPRETER: u32 = 3;
/// `e_machine` of x86-64.
const X86_64: u16 = 62;
const HEAD: usize = 64;
/// The least length of a program header of a 64-bit file.
const PROGRAM_HEADER: usize = 56;

/// Why a machine cannot run a file by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfProblem {
    /// It is something else, or cut off.
    #[error("it is not a program for 64-bit Linux")]
    NoProgram,
    /// It is for another processor.
    #[error("it is for another processor (ELF machine {0}) than the machines', which is x86-64")]
    Machine(u16),
    /// It wants a loader and libraries, which the machines may not have.
    #[error("it is linked dynamically, and the machines may not have its libraries")]
    Dynamic,
}

/// Holds a file against what the machines are: x86-64, and nothing of ours but this one file.
pub(super) fn check(bytes: &[u8]) -> Result<(), ElfProblem> {
    // 64 bits, little-endian, the one version there is.
    let head = bytes
        .get(..HEAD)
        .filter(|head| head.starts_with(b"\x7fELF\x02\x01\x01"))
        .ok_or(ElfProblem::NoProgram)?;
    let machine = half(head, 18).ok_or(ElfProblem::NoProgram)?;
    if machine != X86_64 {
        return Err(ElfProblem::Machine(machine));
    }
    let (start, size, count) = headers(head).ok_or(ElfProblem::NoProgram)?;
    if size < PROGRAM_HEADER || count == 0 {
        return Err(ElfProblem::NoProgram);
    }
    for n in 0..count {
        let at = start.checked_add(n * size).ok_or(ElfProblem::NoProgram)?;
        let header = at.checked_add(size).and_then(|end| bytes.get(at..end));
        let kind = header
            .and_then(|h| h.first_chunk::<4>())
            .ok_or(ElfProblem::NoProgram)?;
        if u32::from_le_bytes(*kind) == INTERPRETER {
            return Err(ElfProblem::Dynamic);
        }
    }
    Ok(())
}

/// Where the program headers begin, how long each is, and how many there are.
fn headers(head: &[u8]) -> Option<(usize, usize, usize)> {
    let start = head.get(32..)?.first_chunk::<8>()?;
    let start = usize::try_from(u64::from_le_bytes(*start)).ok()?;
    Some((start, half(head, 54)?.into(), half(head, 56)?.into()))
}

fn half(head: &[u8], at: usize) -> Option<u16> {
    let two = head.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::static_program;

    #[test]
    fn only_a_static_program_for_the_machines_is_taken() {
        let good = static_program(b"an agent");
        assert_eq!(check(&good), Ok(()));
        let with = |at: usize, byte: u8| {
            let mut changed = good.clone();
            changed[at] = byte;
            check(&changed)
        };
        assert_eq!(with(1, b'F'), Err(ElfProblem::NoProgram));
        assert_eq!(with(4, 1), Err(ElfProblem::NoProgram), "32 bits");
        assert_eq!(with(5, 2), Err(ElfProblem::NoProgram), "big-endian");
        assert_eq!(with(18, 183), Err(ElfProblem::Machine(183)), "arm64");
        assert_eq!(with(64, 3), Err(ElfProblem::Dynamic));
        assert_eq!(with(56, 0), Err(ElfProblem::NoProgram), "no segment");
        assert_eq!(with(56, 9), Err(ElfProblem::NoProgram), "cut off");
        assert_eq!(with(54, 8), Err(ElfProblem::NoProgram), "short headers");
        assert_eq!(with(39, 0xff), Err(ElfProblem::NoProgram), "far outside");
        for length in 0..HEAD + PROGRAM_HEADER {
            assert_eq!(
                check(&good[..length]),
                Err(ElfProblem::NoProgram),
                "{length}"
            );
        }
    }

    /// A real one: this test is linked as the developer's toolchain links, with a loader.
    #[test]
    fn a_program_as_a_developer_builds_it_is_dynamic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check(&own), Err(ElfProblem::Dynamic));
    }
}
