// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual machine: QEMU with its disks, and what it starts from.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::ending::{End, ends_by, has_ended};
use super::faults::Fault;
use super::guest::Guest;
use super::image::Image;
use super::qmp::Qmp;
use super::typist::{self, Answer, Typist};
use super::{PRIMARY, TWIN, must};
use crate::Result;
use crate::dpsr::text;
use crate::process::{self, output};

/// From the start of QEMU to the agent's word. It takes 15 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(600);

/// In the folder of a machine: the variables of its UEFI.
const VARIABLES: &str = "variables.fd";

/// Of the kernel. Mitigations change page tables at each system call, for which emulation forgets all it has
/// learnt: they make everything take up to twice as long, and nobody here attacks anybody.
const COMMAND_LINE: &str =
    "root=LABEL=dpsr-root rw console=ttyS0 systemd.show_status=1 mitigations=off rcupdate.rcu_expedited=1";

/// What a guest does to start anew.
const RESTART: &str = "systemctl reboot";

/// How often a console, or a socket that QEMU is to connect to, is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// How long a machine that was told to go down may take to do so: systemd gives what it stops 90 s.
const SHUTDOWN: Duration = Duration::from_secs(180);

/// How long QEMU may take to end once it has hung up, or the machine has.
const ENDING: Duration = Duration::from_secs(10);

/// QEMU's UEFI, and the memory of a machine on which nothing was ever installed.
const UEFI: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// The same for a machine that starts nothing but what Microsoft has signed, as the distributions' loaders are.
const SECURE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"];

/// A disk: a file that the guest sees as `/dev/disk/by-id/virtio-NAME`.
#[derive(Clone, Debug)]
pub struct Disk {
    pub name: &'static str,
    pub file: PathBuf,
    pub format: Format,
}

/// How a disk lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    /// An [`overlay`] over another file.
    Qcow2,
}

/// Where the first program of a machine comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Kernel and initramfs are handed to QEMU, with this command line.
    Kernel { kernel: PathBuf, initramfs: PathBuf, line: String },
    /// BIOS, from the first of its disks that can be booted from.
    Bios,
    /// UEFI, with its variables in the machine's folder, where they stay.
    Uefi,
    /// The same with Secure Boot.
    Secure,
}

impl Start {
    /// How many processors the machine has. What takes a moment of a disk in use is tested with several; what begins
    /// before any system runs mostly keeps one busy, and two such machines run side by side.
    ///
    /// There is always room for a second one: where there is not, emulation takes a guest's atomic operations for plain
    /// ones, which order nothing against the threads that are the guest's disks. Then a guest sometimes does not tell a
    /// disk that there is something to do, and waits for it for ever. (`tcg_cpu_init_cflags`)
    fn processors(&self) -> &'static str {
        match self {
            Self::Kernel { .. } => "2",
            Self::Bios | Self::Uefi | Self::Secure => "1,maxcpus=2",
        }
    }

    /// The firmware and its variables as they leave the factory, where it is UEFI.
    fn firmware(&self) -> Option<[&'static str; 2]> {
        match self {
            Self::Uefi => Some(UEFI),
            Self::Secure => Some(SECURE),
            Self::Kernel { .. } | Self::Bios => None,
        }
    }
}

/// A machine, on or off. What it writes stays in the files of its disks.
pub struct Machine {
    start: Start,
    disks: Vec<Disk>,
    folder: PathBuf,
    /// What somebody at its console knows.
    answer: Option<Answer>,
    /// A disk that is not in it yet when it is switched on.
    late: Option<Disk>,
    clock: Clock,
    running: Option<Running>,
}

/// What its time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// That of this machine, whatever else it has to do.
    Real,
    /// An instruction takes it a nanosecond: what one does is the same on every machine, and takes about as long as on a
    /// processor of some years ago. While it waits, its time is the real one. It takes about twice as long for us.
    Instructions,
}

/// Ends with its value: nothing survives of a running machine but what its disks hold.
struct Running {
    qemu: Child,
    guest: Guest,
    qmp: Qmp,
    _typist: Option<Typist>,
}

/// What happens to a disk during a start.
struct Planned<'a> {
    fault: Fault,
    disk: &'a str,
    /// When the console says this; else at once.
    words: Option<&'a str>,
}

impl Machine {
    /// A machine that is off, with its files in `folder`: the base image, and these disks.
    pub fn new(image: &Image, disks: Vec<Disk>, folder: &Path) -> Result<Self> {
        let root = overlay("root", &image.disk(), folder)?;
        let line = COMMAND_LINE.to_owned();
        let start = Start::Kernel { kernel: image.kernel(), initramfs: image.initramfs(), line };
        Self::from(start, [vec![root], disks].concat(), folder)
    }

    /// A machine that is off, with these disks and no others, in this order.
    pub fn from(start: Start, disks: Vec<Disk>, folder: &Path) -> Result<Self> {
        let variables = folder.join(VARIABLES);
        if let Some([_, new]) = start.firmware().filter(|_| !variables.exists()) {
            let failed = |error| format!("copying {new}: {error}; it is of the package ovmf");
            fs::copy(new, &variables).map_err(failed)?;
        }
        Ok(Self {
            start,
            disks,
            folder: folder.to_owned(),
            answer: None,
            late: None,
            clock: Clock::Real,
            running: None,
        })
    }

    /// The same machine, with somebody at its console who answers this.
    pub fn answered(self, answer: Option<Answer>) -> Self {
        Self { answer, ..self }
    }

    /// The same machine, by this clock.
    pub fn timed(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The same machine, with a further disk that [`faults::come_late`](super::faults::come_late) puts in.
    pub fn expecting(self, late: Disk) -> Self {
        Self { late: Some(late), ..self }
    }

    /// Switches on and waits for the agent; how long that took.
    pub fn boot(&mut self) -> Result<Duration> {
        self.boot_within(BOOT, None)
    }

    /// The same, but at once, or when the console says `words`, this happens to the disk.
    pub fn boot_with(&mut self, fault: Fault, disk: &str, words: Option<&str>) -> Result<Duration> {
        self.boot_within(BOOT, Some(&Planned { fault, disk, words }))
    }

    fn boot_within(&mut self, patience: Duration, planned: Option<&Planned>) -> Result<Duration> {
        let start = Instant::now();
        let booted = self.try_boot(patience, planned);
        self.running = Some(booted.map_err(|why| format!("{why}\n{}", self.last_words()))?);
        Ok(start.elapsed())
    }

    /// How many bytes the consoles have said.
    fn said(&self) -> usize {
        fs::metadata(self.console()).map_or(0, |meta| meta.len() as usize)
    }

    fn said_since(&self, before: usize) -> String {
        let said = fs::read(self.console()).unwrap_or_default();
        String::from_utf8_lossy(said.get(before..).unwrap_or_default()).into_owned()
    }

    /// Lets it start anew, with no fault and with the disks it was made with.
    pub fn restart(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        self.ends(End::Reset, RESTART, SHUTDOWN.min(patience))?;
        self.boot_within(patience.saturating_sub(start.elapsed()), None).map(drop)
    }

    /// Lets it go down as for a restart, and leaves it off.
    pub fn go_down(&mut self) -> Result<()> {
        self.ends(End::Reset, RESTART, SHUTDOWN)
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// The agent in the guest.
    pub fn guest(&mut self) -> Result<&mut Guest> {
        self.running.as_mut().map(|running| &mut running.guest).ok_or_else(off)
    }

    /// Pulls the plug: QEMU is killed, the guest knows nothing of it.
    pub fn power_cut(&mut self) {
        self.running = None;
    }

    /// Switches on and waits until the consoles have said all of `words` since then, over resets of its own too; how
    /// long that took. The machine is off again afterwards.
    pub fn watch(&self, words: &[&str], patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        let watched = self.try_watch(words, patience);
        watched.map_err(|why| format!("{why}\n{}", self.last_words()))?;
        Ok(start.elapsed())
    }

    fn try_watch(&self, words: &[&str], patience: Duration) -> Result<()> {
        let start = Instant::now();
        let before = self.said();
        let _typist = self.typist()?;
        let (mut qemu, mut qmp, mut _agent) = self.switch_on()?;
        loop {
            let said = self.said_since(before);
            let Some(missing) = words.iter().find(|word| !said.contains(**word)) else { return Ok(()) };
            must(start.elapsed() < patience, || {
                format!("the console did not say {missing:?} within {patience:?}")
            })?;
            if has_ended(qemu.child())? {
                ends_by(End::Reset, qemu.child(), &mut qmp, ENDING)?;
                (qemu, qmp, _agent) = self.switch_on()?;
            }
            thread::sleep(GLANCE);
        }
    }

    /// Whoever sits at its console.
    fn typist(&self) -> Result<Option<Typist>> {
        self.answer.map(|answer| Typist::start(&self.folder, self.console(), answer)).transpose()
    }

    /// Switches off as a person does, and waits for that.
    pub fn shut_down(&mut self) -> Result<()> {
        self.off_by("systemctl poweroff")
    }

    /// The same by a command of the guest that ends so.
    pub fn off_by(&mut self, command: &str) -> Result<()> {
        self.ends(End::Off, command, SHUTDOWN)
    }

    fn ends(&mut self, end: End, command: &str, patience: Duration) -> Result<()> {
        // The agent answers before it ends with everything else.
        self.guest()?.ok(&format!("(sleep 1; {command}) >/dev/null 2>&1 &"))?;
        let Running { qemu, qmp, .. } = self.running.as_mut().ok_or_else(off)?;
        let ended = ends_by(end, qemu, qmp, patience);
        ended.map_err(|why| format!("`{command}` in the guest: {why}\n{}", self.last_words()))?;
        self.running = None;
        Ok(())
    }

    /// Takes a further disk out of the running machine.
    pub fn unplug(&mut self, disk: &str) -> Result<()> {
        self.qmp()?.unplug(&device(disk))
    }

    /// Puts a disk that was unplugged back in.
    pub fn replug(&mut self, disk: &str) -> Result<()> {
        self.qmp()?.plug(disk, &device(disk))
    }

    /// Everything the consoles of all boots said.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// The names of its disks.
    pub(super) fn disks(&self) -> Vec<&'static str> {
        self.disks.iter().map(|disk| disk.name).collect()
    }

    /// QEMU's control socket.
    pub(super) fn qmp(&mut self) -> Result<&mut Qmp> {
        self.running.as_mut().map(|running| &mut running.qmp).ok_or_else(off)
    }

    /// Where it resets itself before the agent's word, it is switched on again, and the fault comes again.
    fn try_boot(&self, patience: Duration, planned: Option<&Planned>) -> Result<Running> {
        let deadline = Instant::now() + patience;
        let left = || deadline.saturating_duration_since(Instant::now());
        let typist = self.typist()?;
        loop {
            let before = self.said();
            let (mut qemu, mut qmp, agent) = self.switch_on()?;
            let stream = qemu.connection(&agent)?;
            let struck =
                planned.map_or(Ok(()), |it| self.strike(it, before, (qemu.child(), &mut qmp), left()));
            let why = match struck.and_then(|()| Guest::meet(stream, left())) {
                Ok(guest) => {
                    let qemu = qemu.0.take().expect("it was put there when it was started");
                    return Ok(Running { qemu, guest, qmp, _typist: typist });
                }
                Err(why) => why,
            };
            must(!left().is_zero(), || why.clone())?;
            ends_by(End::Reset, qemu.child(), &mut qmp, ENDING).map_err(|end| format!("{why}; {end}"))?;
            println!("    it has reset itself, and is switched on again");
        }
    }

    /// Waits for the words of what is planned since the consoles had said so much, and lets it happen.
    fn strike(
        &self,
        planned: &Planned,
        before: usize,
        (qemu, qmp): (&mut Child, &mut Qmp),
        patience: Duration,
    ) -> Result<()> {
        let start = Instant::now();
        if let Some(words) = planned.words {
            while !self.said_since(before).contains(words) {
                let unsaid = || format!("the console did not say {words:?}");
                must(start.elapsed() < patience && !has_ended(qemu)?, unsaid)?;
                thread::sleep(GLANCE);
            }
        }
        (planned.fault)(qmp, planned.disk)
    }

    /// QEMU once it has begun; the agent will call at the listener.
    fn switch_on(&self) -> Result<(Off, Qmp, UnixListener)> {
        let agent = listen(&self.folder.join("agent"))?;
        let control = listen(&self.folder.join("qmp"))?;
        let log = self.folder.join("qemu.log");
        let failed = |error| format!("starting QEMU: {error}");
        let log = File::create(log).map_err(failed)?;
        let mut command = self.qemu()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut qemu = Off(Some(command.spawn().map_err(failed)?));
        let qmp = Qmp::meet(qemu.connection(&control)?)?;
        Ok((qemu, qmp, agent))
    }

    /// The command line. The kernel kills QEMU when the thread that started it ends, however it ends, so a
    /// machine belongs on a thread that lives as long as it.
    fn qemu(&self) -> Result<Command> {
        let folder = text(&self.folder)?;
        let mut command = Command::new("setpriv");
        let (name, value) = process::mark();
        command.env(name, value);
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
        command
            .args(["-display", "none", "-m", "1024", "-smp", self.start.processors()])
            .args(self.clock.accelerator());
        // Where it would reset itself, it is switched off and on: after a reset UEFI in emulation hangs before its
        // first word, often or nearly always by the version of QEMU, which no guest can help.
        command.args(["-action", "reboot=shutdown"]);
        match &self.start {
            Start::Kernel { kernel, initramfs, line } => {
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(["-append", line]);
            }
            Start::Bios | Start::Uefi => {}
            // Only firmware may write the variables, and only in the mode of the processor that is its own.
            Start::Secure => {
                command.args([
                    "-machine",
                    "q35,smm=on",
                    "-global",
                    "driver=cfi.pflash01,property=secure,value=on",
                ]);
            }
        }
        if let Some([code, _]) = self.start.firmware() {
            let flash = "if=pflash,format=raw";
            command.args(["-drive", &format!("{flash},unit=0,readonly=on,file={code}")]);
            command.args(["-drive", &format!("{flash},unit=1,file={folder}/{VARIABLES}")]);
        }
        let console = match self.answer {
            None => format!("file,path={folder}/console.log,append=on"),
            Some(_) => format!("{},logfile={folder}/console.log,logappend=on", typist::keyboard(folder)),
        };
        command.args(["-chardev", &format!("{console},id=console")]);
        command.args(["-serial", "chardev:console", "-device", "virtio-rng-pci"]);
        command.args(["-chardev", &format!("socket,id=qmp,path={folder}/qmp")]);
        command.args(["-mon", "chardev=qmp,mode=control", "-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=agent,path={folder}/agent")]);
        command.args(["-device", "virtserialport,chardev=agent,name=dpsr.agent"]);
        for (order, disk) in self.disks.iter().enumerate() {
            // UEFI has its own order, in its variables.
            let order = if self.start == Start::Bios { format!(",bootindex={order}") } else { String::new() };
            add_node(&mut command, disk)?;
            add_device(&mut command, disk.name, &order);
        }
        self.late.iter().try_for_each(|disk| add_node(&mut command, disk))?;
        Ok(command)
    }

    /// The end of what QEMU and the console said, for the sentence about a failure.
    pub fn last_words(&self) -> String {
        let said = |file: &str| fs::read(self.folder.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[said("qemu.log"), said("console.log")].concat()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

/// QEMU before its sockets are connected; dropping it kills it.
struct Off(Option<Child>);

impl Off {
    /// Waits for QEMU to connect, which it does at its start.
    fn connection(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        let failed = |error| format!("waiting for QEMU: {error}");
        let child = self.0.as_mut().expect("it is taken only once both are connected");
        let deadline = Instant::now() + BOOT;
        while Instant::now() < deadline {
            match listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(failed(error)),
                Err(_) => thread::sleep(GLANCE),
            }
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Err(format!("QEMU ended at once ({status})"));
            }
        }
        Err("QEMU did not connect in time".to_owned())
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is taken only once both are connected")
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

fn end(qemu: &mut Child) {
    if let Err(error) = qemu.kill().and_then(|()| qemu.wait()) {
        eprintln!("ending QEMU ({}): {error}, ignoring: it may be left", qemu.id());
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |error| format!("listening on {}: {error}", path.display());
    if path.exists() {
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The emulator and its version, which decides how long everything takes.
pub fn emulator() -> Result<String> {
    let told = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(told.lines().next().unwrap_or_default().to_owned())
}

impl Clock {
    /// Emulation, unless somebody says that KVM works here: a `/dev/kvm` in which kernels hang proves nothing.
    /// Westmere is the oldest processor with the carry-less multiply of the digests; `max` is slower.
    fn accelerator(self) -> &'static [&'static str] {
        let has_kvm = || env::var("DPSR_VM_KVM").is_ok_and(|value| value == "1");
        match self {
            Self::Real if has_kvm() => &["-accel", "kvm", "-cpu", "host"],
            Self::Real => &["-accel", "tcg,thread=multi", "-cpu", "Westmere"],
            Self::Instructions => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on", "-cpu", "Westmere"]
            }
        }
    }
}

/// A disk whose writes go to a file in `folder`, and whose other bytes are those of `below`, a raw file.
pub fn overlay(name: &'static str, below: &Path, folder: &Path) -> Result<Disk> {
    Disk { name, file: below.to_owned(), format: Format::Raw }.tried_out(folder)
}

impl Disk {
    /// The same disk, to be written to while this one stays as it is.
    pub fn tried_out(&self, folder: &Path) -> Result<Self> {
        let file = folder.join(self.name).with_extension("qcow2");
        let format = self.format.name();
        let mut make = Command::new("qemu-img");
        make.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(&self.file).arg(&file);
        output(&mut make)?;
        Ok(Self { name: self.name, file, format: Format::Qcow2 })
    }
}

impl Disk {
    /// All that it holds, in one file.
    pub fn flattened(&self, folder: &Path) -> Result<Self> {
        let file = folder.join(self.name).with_extension("raw");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", self.format.name(), "-O", "raw"]);
        output(convert.arg(&self.file).arg(&file))?;
        Ok(Self { name: self.name, file, format: Format::Raw })
    }

    /// A copy of one that is one file.
    pub fn tried_out_raw(&self, folder: &Path) -> Result<Self> {
        let file = folder.join(self.name).with_extension("raw");
        output(Command::new("cp").arg("--sparse=always").arg(&self.file).arg(&file))?;
        Ok(Self { name: self.name, file, format: Format::Raw })
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A node of its own for the file, so that it survives the unplugging of the device.
fn add_node(command: &mut Command, disk: &Disk) -> Result<()> {
    let (name, file) = (disk.name, text(&disk.file)?);
    let format = disk.format.name();
    let node = format!("driver={format},node-name={name},discard=unmap,file.driver=file");
    let file = format!("file.node-name={name}-file,file.discard=unmap,file.filename={file}");
    command.args(["-blockdev", &format!("{node},{file}")]);
    Ok(())
}

fn add_device(command: &mut Command, name: &str, more: &str) {
    let device = format!("virtio-blk-pci,drive={name},id={},serial={}{more}", device(name), serial(name));
    command.args(["-device", &device]);
}

/// What the disk says of itself.
fn serial(disk: &str) -> &str {
    if disk == TWIN { PRIMARY } else { disk }
}

/// What QEMU calls the device in which a disk is.
pub(super) fn device(disk: &str) -> String {
    format!("{disk}-device")
}

fn off() -> String {
    "the machine is off".to_owned()
}
