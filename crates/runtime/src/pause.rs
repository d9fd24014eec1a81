//! The pause program and its image: what holds a Pod's namespaces open.
//!
//! The program is a few dozen machine instructions, made here rather than by a compiler, so that neither a C toolchain
//! nor a registry is needed. In words:
//!
//! ```text
//! block INT, TERM and CHLD            (a blocked signal is queued even for process 1)
//! forever: wait for one of them
//!     CHLD:      reap every child that ended   (process 1 of a shared PID namespace inherits orphans)
//!     INT, TERM: exit with 0
//! ```

use crate::images::build::{Builder, FileSource};
use crate::{Error, Result};

/// The name the image has in the node.
pub const IMAGE: &str = "caravel.local/pause:1";

/// INT (2), TERM (15) and CHLD (17) as the kernel's signal set: bit `n − 1` for signal `n`.
const SIGNALS: u32 = 1 << 1 | 1 << 14 | 1 << 16;

/// Where the file is mapped.
const BASE: u64 = 0x40_0000;

/// ELF header and two program headers come before the code.
const HEADERS: usize = 64 + 2 * 56;

/// A static ELF executable that pauses, for `x86_64` or `aarch64` (as `std::env::consts::ARCH` calls them).
pub fn program(arch: &str) -> Result<Vec<u8>> {
    match arch {
        "x86_64" => Ok(elf(62, 0x1000, &x86_64())),
        "aarch64" => Ok(elf(183, 0x1_0000, &aarch64())),
        other => {
            Err(Error::Host(format!("no pause program for the processor {other:?}: x86_64 and aarch64 are known")))
        }
    }
}

/// The image: `/pause` and nothing else.
pub fn image() -> Result<crate::images::Bundle> {
    let mut builder = Builder::new(IMAGE)?;
    builder.file("pause", FileSource::Bytes(program(std::env::consts::ARCH)?), 0o755)?;
    builder.entrypoint = vec!["/pause".into()];
    builder.user = "65535:65535".into();
    builder.build()
}

/// A one-segment executable around the code, which starts right after the headers.
fn elf(machine: u16, align: u64, code: &[u8]) -> Vec<u8> {
    let size = (HEADERS + code.len()) as u64;
    let mut out = Vec::with_capacity(HEADERS + code.len());
    out.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bit, little endian, System V
    out.extend(2u16.to_le_bytes()); // executable
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend((BASE + HEADERS as u64).to_le_bytes()); // entry point
    out.extend(64u64.to_le_bytes()); // program headers follow
    out.extend(0u64.to_le_bytes()); // no section headers
    out.extend(0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 2, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    program_header(&mut out, 1, 5, [0, BASE, BASE, size, size, align]); // PT_LOAD, read and execute
    program_header(&mut out, 0x6474_e551, 6, [0, 0, 0, 0, 0, 16]); // PT_GNU_STACK: the stack is not executable
    out.extend(code);
    out
}

fn program_header(out: &mut Vec<u8>, type_: u32, flags: u32, words: [u64; 6]) {
    out.extend(type_.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in words {
        out.extend(word.to_le_bytes());
    }
}

/// Code with short relative jumps (x86).
#[derive(Default)]
struct X86 {
    bytes: Vec<u8>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl X86 {
    fn op(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.push((name, self.bytes.len()));
        self
    }

    fn jump(&mut self, opcode: u8, to: &'static str) -> &mut Self {
        self.bytes.push(opcode);
        self.jumps.push((self.bytes.len(), to));
        self.bytes.push(0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        for (at, name) in &self.jumps {
            for (_, target) in self.labels.iter().filter(|(label, _)| label == name) {
                self.bytes[*at] = (*target as i64 - (*at as i64 + 1)) as i8 as u8;
            }
        }
        self.bytes
    }
}

fn x86_64() -> Vec<u8> {
    const SYSCALL: &[u8] = &[0x0f, 0x05];
    let mut code = X86::default();
    code.op(&[0x68])
        .op(&SIGNALS.to_le_bytes()) // push SIGNALS
        .op(&[0x48, 0x89, 0xe3]) // mov rbx, rsp
        .op(&[0x31, 0xff]) // xor edi, edi: SIG_BLOCK
        .op(&[0x48, 0x89, 0xde]) // mov rsi, rbx
        .op(&[0x31, 0xd2]) // xor edx, edx
        .op(&[0x6a, 0x08, 0x41, 0x5a]) // push 8; pop r10: size of a set
        .op(&[0x6a, 14, 0x58]) // push 14; pop rax: rt_sigprocmask
        .op(SYSCALL)
        .label("wait")
        .op(&[0x48, 0x89, 0xdf]) // mov rdi, rbx
        .op(&[0x31, 0xf6]) // xor esi, esi: no siginfo
        .op(&[0x31, 0xd2]) // xor edx, edx: no timeout
        .op(&[0x6a, 0x08, 0x41, 0x5a]) // push 8; pop r10
        .op(&[0xb8, 128, 0, 0, 0]) // mov eax, 128: rt_sigtimedwait
        .op(SYSCALL)
        .op(&[0x3c, 17]) // cmp al, SIGCHLD
        .jump(0x74, "reap") // je
        .op(&[0x3c, 15]) // cmp al, SIGTERM
        .jump(0x74, "exit")
        .op(&[0x3c, 2]) // cmp al, SIGINT
        .jump(0x75, "wait") // jne
        .label("exit")
        .op(&[0x31, 0xff]) // xor edi, edi
        .op(&[0xb8, 231, 0, 0, 0]) // mov eax, 231: exit_group
        .op(SYSCALL)
        .label("reap")
        .op(&[0x6a, 0xff, 0x5f]) // push -1; pop rdi: any child
        .op(&[0x31, 0xf6]) // xor esi, esi: no status
        .op(&[0x6a, 0x01, 0x5a]) // push 1; pop rdx: WNOHANG
        .op(&[0x45, 0x31, 0xd2]) // xor r10d, r10d: no usage
        .op(&[0x6a, 61, 0x58]) // push 61; pop rax: wait4
        .op(SYSCALL)
        .op(&[0x48, 0x85, 0xc0]) // test rax, rax
        .jump(0x7f, "reap") // jg
        .jump(0xeb, "wait"); // jmp
    code.finish()
}

fn aarch64() -> Vec<u8> {
    const SVC: u32 = 0xd400_0001;
    let movz = |register: u32, value: u32| 0xd280_0000 | (value << 5) | register;
    // A branch over `to − from` instructions: conditional ones keep the distance in bits 5 to 23.
    let conditional =
        |condition: u32, from: i32, to: i32| 0x5400_0000 | (((to - from) as u32 & 0x7_ffff) << 5) | condition;
    let (wait, exit, reap) = (10, 22, 25);
    let words: [u32; 34] = [
        0x5280_0009 | ((SIGNALS & 0xffff) << 5), // mov w9, low half
        0x72a0_0009 | ((SIGNALS >> 16) << 5),    // movk w9, high half, lsl 16
        0xf81f_0fe9,                             // str x9, [sp, #-16]!
        0x9100_03f3,                             // mov x19, sp
        movz(0, 0),                              // SIG_BLOCK
        0xaa13_03e1,                             // mov x1, x19
        movz(2, 0),
        movz(3, 8),
        movz(8, 135), // rt_sigprocmask
        SVC,
        0xaa13_03e0, // wait: mov x0, x19
        movz(1, 0),
        movz(2, 0),
        movz(3, 8),
        movz(8, 137), // rt_sigtimedwait
        SVC,
        0x7100_001f | (17 << 10), // cmp w0, SIGCHLD
        conditional(0, 17, reap),
        0x7100_001f | (15 << 10), // cmp w0, SIGTERM
        conditional(0, 19, exit),
        0x7100_001f | (2 << 10), // cmp w0, SIGINT
        conditional(1, 21, wait),
        movz(0, 0),  // exit:
        movz(8, 94), // exit_group
        SVC,
        0x9280_0000, // reap: mov x0, -1
        movz(1, 0),
        movz(2, 1), // WNOHANG
        movz(3, 0),
        movz(8, 260), // wait4
        SVC,
        0xf100_001f,                                     // cmp x0, 0
        conditional(12, 32, reap),                       // b.gt
        0x1400_0000 | ((wait - 33) as u32 & 0x3ff_ffff), // b
    ];
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    fn start() -> (tempfile::TempDir, std::process::Child) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, program(std::env::consts::ARCH).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's fork may hold the file open for writing for an instant (ETXTBSY).
        for _ in 0..200 {
            match std::process::Command::new(&path).spawn() {
                Ok(child) => return (dir, child),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("the pause program does not start");
    }

    #[test]
    fn it_pauses_and_ends_at_sigterm_with_success() {
        let (_dir, mut child) = start();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR2).ok();
        // SIGUSR2 is not blocked and its default is to end the process outside of a PID namespace of its own.
        assert!(child.wait().unwrap().code().is_none());
        let (_dir, mut child) = start();
        std::thread::sleep(Duration::from_millis(50));
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn it_is_small_and_starts_with_the_headers_the_kernel_wants() {
        for arch in ["x86_64", "aarch64"] {
            let program = program(arch).unwrap();
            assert!(program.len() < 512, "{arch}: {} bytes", program.len());
            assert_eq!(&program[..4], b"\x7fELF");
        }
        assert!(program("riscv64").unwrap_err().to_string().contains("riscv64"));
    }

    #[test]
    fn jumps_lead_where_they_should() {
        let code = x86_64();
        // The last instruction is `jmp wait`; `wait` starts with `mov rdi, rbx`.
        let at = code.len() as i64;
        let target = (at + i64::from(code[code.len() - 1] as i8)) as usize;
        assert_eq!(&code[target..target + 3], [0x48, 0x89, 0xdf]);
        let words: Vec<u32> = aarch64().chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(words[0], 0x5288_0049);
        assert_eq!(words[10], 0xaa13_03e0);
        assert_eq!(words[22], 0xd280_0000);
        assert_eq!(words[25], 0x9280_0000);
        assert_eq!(words[33], 0x17ff_ffe9); // b −23 instructions
    }

    /// As process 1 of a PID namespace it must take in orphans and not leave zombies.
    #[test]
    fn as_process_1_it_reaps_orphans() {
        let (dir, mut first) = start();
        let _ = first.kill();
        let _ = first.wait();
        let path = dir.path().join("pause");
        // unshare forks; the pause program becomes process 1 of the new namespace.
        let mut child = match std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .spawn()
        {
            Ok(child) => child,
            Err(_) => return, // no unshare program here
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let pid = loop {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let text = std::fs::read_to_string(children).unwrap_or_default();
            let found = text.split_whitespace().next().map(str::to_string);
            if let Some(pid) = found
                && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path)
            {
                break pid;
            }
            if Instant::now() > deadline || child.try_wait().unwrap().is_some() {
                let _ = child.kill();
                let _ = child.wait();
                return; // not allowed to make namespaces here
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        // A shell whose child outlives it: the orphan goes to process 1 and ends.
        let status = std::process::Command::new("nsenter")
            .args(["-t", &pid, "-p", "-m", "sh", "-c", "(sleep 0.2; exit 3) & exit 0"])
            .status()
            .unwrap();
        assert!(status.success());
        let deadline = Instant::now() + Duration::from_secs(5);
        let children = format!("/proc/{pid}/task/{pid}/children");
        std::thread::sleep(Duration::from_millis(400));
        loop {
            if std::fs::read_to_string(&children).unwrap_or_default().trim().is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "zombies stay: {}", std::fs::read_to_string(&children).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
