// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual machine: QEMU with an overlay over a base image and any further disks.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::image::Image;
use super::qmp::Qmp;
use crate::Result;
use crate::dpsr::text;
use crate::process::output;

/// From the start of QEMU to the agent's word. It takes 15 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(300);

/// How often a socket that QEMU is to connect to is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// A further disk: a raw file that the guest sees as `/dev/disk/by-id/virtio-NAME`.
pub struct Disk {
    pub name: &'static str,
    pub file: PathBuf,
}

/// A machine, on or off. What it writes to its root stays until the directory goes.
pub struct Machine {
    image: Image,
    disks: Vec<Disk>,
    folder: PathBuf,
    running: Option<Running>,
}

/// Ends with its value: nothing survives of a running machine but what its disks hold.
struct Running {
    qemu: Child,
    guest: Guest,
    qmp: Qmp,
}

impl Machine {
    /// A machine that is off, with its files in `folder`.
    pub fn new(image: Image, disks: Vec<Disk>, folder: &Path) -> Result<Self> {
        let mut make = Command::new("qemu-img");
        make.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image.disk());
        output(make.arg(folder.join("root.qcow2")))?;
        Ok(Self { image, disks, folder: folder.to_owned(), running: None })
    }

    /// Switches on and waits for the agent; how long that took.
    pub fn boot(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let booted = self.try_boot();
        self.running = Some(booted.map_err(|why| format!("{why}\n{}", self.last_words()))?);
        Ok(start.elapsed())
    }

    /// The agent in the guest.
    pub fn guest(&mut self) -> Result<&mut Guest> {
        self.running.as_mut().map(|running| &mut running.guest).ok_or_else(off)
    }

    /// Pulls the plug: QEMU is killed, the guest knows nothing of it.
    pub fn power_cut(&mut self) {
        self.running = None;
    }

    /// Takes a further disk out of the running machine.
    pub fn unplug(&mut self, disk: &str) -> Result<()> {
        self.qmp()?.unplug(&device(disk))
    }

    /// Puts a disk that was unplugged back in.
    pub fn replug(&mut self, disk: &str) -> Result<()> {
        let device = device(disk);
        let arguments = format!(
            "{{\"driver\":\"virtio-blk-pci\",\"id\":\"{device}\",\"drive\":\"{disk}\",\"serial\":\"{disk}\"}}"
        );
        self.qmp()?.execute("device_add", &arguments)
    }

    /// Everything the consoles of all boots said.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn qmp(&mut self) -> Result<&mut Qmp> {
        self.running.as_mut().map(|running| &mut running.qmp).ok_or_else(off)
    }

    fn try_boot(&self) -> Result<Running> {
        let agent = listen(&self.folder.join("agent"))?;
        let control = listen(&self.folder.join("qmp"))?;
        let log = self.folder.join("qemu.log");
        let failed = |error| format!("starting QEMU: {error}");
        let log = File::create(log).map_err(failed)?;
        let mut command = self.qemu()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut qemu = Off(Some(command.spawn().map_err(failed)?));
        let qmp = Qmp::meet(qemu.connection(&control)?)?;
        let guest = Guest::meet(qemu.connection(&agent)?, BOOT)?;
        let qemu = qemu.0.take().expect("it was put there above");
        Ok(Running { qemu, guest, qmp })
    }

    /// The command line. The kernel kills QEMU when the thread that started it ends, however it ends, so a
    /// machine belongs on a thread that lives as long as it.
    fn qemu(&self) -> Result<Command> {
        let (image, folder) = (&self.image, text(&self.folder)?);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-m", "1024", "-smp", "2"]).args(accelerator());
        command.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initramfs());
        command.args(["-append", "root=LABEL=dpsr-root rw console=ttyS0 systemd.show_status=1"]);
        command.args(["-chardev", &format!("file,id=console,append=on,path={folder}/console.log")]);
        command.args(["-serial", "chardev:console", "-device", "virtio-rng-pci"]);
        command.args(["-chardev", &format!("socket,id=qmp,path={folder}/qmp")]);
        command.args(["-mon", "chardev=qmp,mode=control", "-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=agent,path={folder}/agent")]);
        command.args(["-device", "virtserialport,chardev=agent,name=dpsr.agent"]);
        add_disk(&mut command, "root", "qcow2", &format!("{folder}/root.qcow2"));
        for disk in &self.disks {
            add_disk(&mut command, disk.name, "raw", text(&disk.file)?);
        }
        Ok(command)
    }

    /// The end of what QEMU and the console said, for the sentence about a failure.
    fn last_words(&self) -> String {
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

/// Emulation, unless somebody says that KVM works here: a `/dev/kvm` in which kernels hang proves nothing.
fn accelerator() -> [&'static str; 4] {
    if env::var("DPSR_VM_KVM").is_ok_and(|value| value == "1") {
        ["-accel", "kvm", "-cpu", "host"]
    } else {
        ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]
    }
}

/// A node of its own for the file, so that it survives the unplugging of the device.
fn add_disk(command: &mut Command, name: &str, format: &str, file: &str) {
    let node = format!("driver={format},node-name={name},discard=unmap,file.driver=file");
    command.args(["-blockdev", &format!("{node},file.discard=unmap,file.filename={file}")]);
    command.args(["-device", &format!("virtio-blk-pci,drive={name},id={},serial={name}", device(name))]);
}

fn device(disk: &str) -> String {
    format!("{disk}-device")
}

fn off() -> String {
    "the machine is off".to_owned()
}
