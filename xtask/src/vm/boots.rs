// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm --boot`: what begins before any system runs. Each case has a machine of its own, with dpsr
//! installed on the primary and an empty DPSR disk, and says itself which of them are there at each boot. A
//! new one is a function here and a line in [`CASES`].

mod anew;
mod broken;
mod choices;
mod decoys;
mod failover;
mod full;
mod images;
mod loaders;
mod lost;
mod order;
mod raid;
mod replaced;
mod roots;
mod sdboot;
mod secure;
mod sleeps;
mod soak;
mod stays;
mod stock;
mod times;
mod unwrapped;

use std::cell::RefCell;
use std::env;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::guest::Done;
use super::image::{self, Debian};
use super::installed::{ARRAY_UUID, Installed, Layout, PASSPHRASE, ROOT_PARTUUID, ROOT_UUID};
use super::machine::{self, Clock, Disk, Format, Machine, Start, overlay};
use super::runner::Choice;
use super::story::in_time;
use super::typist::Answer;
use super::{ALL, DPSR, PRIMARY, must};
use crate::Result;
use crate::data::{GIB, make_sparse};
use crate::json::Json;
use crate::scratch::Scratch;

/// A name, what the root stands on, and what is done.
type Case = (&'static str, Layout, fn(&Rig) -> Result<()>);

/// What the guest calls the other half of an array.
const MIRROR: &str = "mirror";

/// All of them, in the order they run in.
const CASES: [Case; 41] = [
    ("gone_and_back", Layout::Plain, failover::gone_and_back),
    ("system_broken", Layout::Plain, broken::system_broken),
    ("homes_stay", Layout::Homes, stays::homes_stay),
    ("left_by_itself", Layout::Plain, broken::left_by_itself),
    ("left_in_other_ways", Layout::Plain, broken::left_in_other_ways),
    ("bios_root_by_uuid", Layout::Plain, roots::bios_uuid),
    ("bios_root_by_partuuid", Layout::Plain, roots::bios_partuuid),
    ("uefi_root_by_uuid", Layout::Plain, roots::uefi_uuid),
    ("uefi_root_by_partuuid", Layout::Plain, roots::uefi_partuuid),
    ("changing_order", Layout::Plain, order::changing_order),
    ("root_on_lvm", Layout::Lvm, roots::by_bios),
    ("lvm_devices_file", Layout::Lvm, roots::by_devices_file),
    ("root_on_luks", Layout::Luks, roots::by_uefi),
    ("root_stacked", Layout::Stacked, roots::by_bios),
    ("root_on_xfs", Layout::Xfs, roots::by_uefi),
    ("root_on_btrfs", Layout::Btrfs, roots::by_uefi),
    ("root_on_raid", Layout::Raid, roots::by_uefi),
    ("initramfs_tools", Layout::Stock, stock::initramfs_tools),
    ("switch_cut_short", Layout::Stock, stock::switch_cut_short),
    ("systemd_boot", Layout::SystemdBoot, sdboot::systemd_boot),
    ("half_an_array", Layout::Raid, raid::half_an_array),
    ("onto_a_blank_disk", Layout::Plain, replaced::onto_a_blank_disk),
    ("secure_boot", Layout::Plain, secure::secure_boot),
    ("bios", Layout::Plain, bios),
    ("uefi", Layout::Plain, uefi),
    ("dpsr_disk_alone", Layout::Plain, dpsr_disk_alone),
    ("lost_in_other_ways", Layout::Plain, lost::lost_in_other_ways),
    ("dpsr_disk_fails", Layout::Plain, lost::dpsr_disk_fails),
    ("made_for_this_machine", Layout::Plain, images::made_for_this_machine),
    ("cut_in_an_update", Layout::Plain, images::cut_in_an_update),
    ("boot_times", Layout::Plain, times::boot_times),
    ("clone_of_the_dpsr_disk", Layout::Plain, decoys::clone_of_the_dpsr_disk),
    ("not_by_itself", Layout::Plain, choices::not_by_itself),
    ("not_wrapped", Layout::Plain, unwrapped::not_wrapped),
    ("synced_many_times", Layout::Btrfs, soak::synced_many_times),
    ("not_wrapped_either", Layout::Plain, unwrapped::not_wrapped_either),
    ("copy_fills_up", Layout::Plain, full::copy_fills_up),
    ("copy_given_up", Layout::Plain, anew::copy_given_up),
    ("hibernated", Layout::Sleeps, sleeps::hibernated),
    ("wrapped_too_slowly", Layout::Plain, unwrapped::wrapped_too_slowly),
    ("loaders_renewed_in_a_sync", Layout::Plain, loaders::loaders_renewed_in_a_sync),
];

/// Those of them that run where nothing else was asked for, and on which release: each thing a root can stand on is in one
/// of them. Only the first goes all the way back. In this order two machines are busy to the end.
const USUAL: [(Debian, &str); 5] = [
    (Debian::Bookworm, "gone_and_back"),
    (Debian::Bookworm, "initramfs_tools"),
    (Debian::Bookworm, "root_stacked"),
    (Debian::Trixie, "root_on_raid"),
    (Debian::Bookworm, "left_by_itself"),
];

/// How long what takes longest in emulation may take: dracut.
const PATIENCE: Duration = Duration::from_secs(900);

/// The disks of one case.
#[derive(Clone)]
struct Rig {
    debian: Debian,
    layout: Layout,
    /// Whether there is no time for the way back after each pulled disk.
    brief: bool,
    folder: PathBuf,
    primary: Disk,
    /// The other half of the primary, where that is an array.
    mirror: Option<Disk>,
    dpsr: Disk,
    clock: Clock,
}

impl Rig {
    /// An installed primary, and an empty DPSR disk of 8 GiB.
    fn new(debian: Debian, layout: Layout, folder: &Path, brief: bool) -> Result<Self> {
        let installed = Installed::of(debian, layout)?;
        let primary = overlay(PRIMARY, &installed.disk(), folder)?;
        let mirror = installed.mirror().map(|file| overlay(MIRROR, &file, folder)).transpose()?;
        let file = folder.join("dpsr.img");
        make_sparse(&file, 8 * GIB)?;
        let dpsr = Disk { name: DPSR, file, format: Format::Raw };
        Ok(Self {
            debian,
            layout,
            brief,
            folder: folder.to_owned(),
            primary,
            mirror,
            dpsr,
            clock: Clock::Real,
        })
    }

    /// The machine with these disks, and no others, off. Where the primary is, its other half is, too.
    fn machine(&self, start: Start, disks: &[&Disk]) -> Result<Machine> {
        let both = |disk: &Disk| [Some(disk.clone()), self.mirror.clone().filter(|_| disk.name == PRIMARY)];
        let disks = disks.iter().flat_map(|disk| both(disk)).flatten().collect();
        let passphrase = self.layout.is_locked().then_some(Answer::passphrase(PASSPHRASE));
        Ok(Machine::from(start, disks, &self.folder)?.answered(passphrase).timed(self.clock))
    }
}

/// Runs the chosen cases on each of these releases, or on all there are, each with new disks. Where any failed, their names
/// are the error.
pub fn run(debians: &[Debian], choice: &Choice, keep: bool) -> Result<()> {
    let takes = |debian: Debian, name: &str| match choice.names[..] {
        [] => choice.all || USUAL.contains(&(debian, name)),
        _ => choice.names.iter().any(|it| name.contains(it.as_str())),
    };
    let of = |debian: Debian| CASES.iter().map(move |case| (debian, case));
    let debians = if debians.is_empty() { &ALL } else { debians };
    let mut cases: Vec<(Debian, &Case)> = debians
        .iter()
        .flat_map(|debian| of(*debian))
        .filter(|(debian, case)| takes(*debian, case.0))
        .collect();
    if cases.is_empty() {
        return Err(format!("no case has a name with {}", choice.names.join(" or ")));
    }
    println!("{}", machine::emulator()?);
    // The usual ones in their order, which keeps two machines busy to the end.
    let place = |debian, name| USUAL.iter().position(|it| *it == (debian, name)).unwrap_or(USUAL.len());
    cases.sort_by_key(|(debian, case)| place(*debian, case.0));
    let usual = choice.names.is_empty() && !choice.all;
    let failed = side_by_side(&cases, (usual, keep))?;
    println!("{} of {} passed", cases.len() - failed.len(), cases.len());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// Runs the cases, two at a time where there are two processors: a machine waits a lot. The names of those that
/// failed.
fn side_by_side(cases: &[(Debian, &Case)], (brief, keep): (bool, bool)) -> Result<Vec<String>> {
    let queue = Mutex::new(cases.iter());
    let work = || {
        let mut failed = Vec::new();
        while let Some((debian, case)) = queue.lock().ok().and_then(|mut cases| cases.next()) {
            let label = format!("{} {}", debian.number(), case.0);
            CASE.set(label.clone());
            if !told(*debian, case, (brief, keep))? {
                failed.push(label);
            }
        }
        Ok(failed)
    };
    let lanes = thread::available_parallelism().map_or(1, usize::from).min(2);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(work)).collect();
        let ended =
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err("a case panicked".into())));
        ended.collect::<Result<Vec<_>>>().map(|failed| failed.concat())
    })
}

thread_local! {
    /// The release and the case that this thread runs.
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says something of the case that this thread runs.
fn say(text: impl Display) {
    CASE.with_borrow(|case| println!("[{case}] {text}"));
}

/// Runs one case and says how it went; the console of one that failed stays, with `keep` its disks do, too.
fn told(debian: Debian, (name, layout, case): &Case, (brief, keep): (bool, bool)) -> Result<bool> {
    say("…");
    let start = Instant::now();
    let kept = image::store().join(format!("kept-boot-{}-{name}", debian.number()));
    let failed = |error| format!("preparing {}: {error}", kept.display());
    if kept.exists() {
        fs::remove_dir_all(&kept).map_err(failed)?;
    }
    let scratch = Scratch::new(&env::temp_dir(), &format!("boot-{}-{name}", debian.number()))?;
    if keep {
        fs::create_dir(&kept).map_err(failed)?;
    }
    let folder = if keep { &kept } else { scratch.path() };
    let outcome = Rig::new(debian, *layout, folder, brief).and_then(|rig| case(&rig));
    let seconds = start.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => say(format_args!("ok     {seconds:6.1} s")),
        Err(why) => {
            say(format_args!("FAILED {seconds:6.1} s\n    {}\n", why.trim_end().replace('\n', "\n    ")));
            fs::create_dir_all(&kept).map_err(failed)?;
            if !keep {
                fs::copy(folder.join("console.log"), kept.join("console.log")).unwrap_or_default();
            }
            tell_console(&kept.join("console.log"));
            say(format_args!("its console is in {}", kept.display()));
        }
    }
    Ok(outcome.is_ok())
}

/// What dpsr said in the last two boots, for who has only what the test printed.
fn tell_console(console: &Path) {
    let Ok(text) = fs::read(console) else { return };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let boots: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("] Linux version ")).collect();
    let from = boots.iter().rev().nth(1).or(boots.last()).copied().unwrap_or(0);
    let telling =
        |line: &&&str| ["dpsr: ", "] Linux version ", "logical blocks"].iter().any(|it| line.contains(it));
    for line in lines[from..].iter().filter(telling) {
        say(format_args!("| {}", line.chars().take(200).collect::<String>()));
    }
}

/// Switches on, and says how long it took until the agent answered.
fn booted(machine: &mut Machine, what: &str) -> Result<()> {
    let took = machine.boot()?;
    say(format_args!("{what}: {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// What must hold of every boot of the primary by itself.
fn is_the_primary(machine: &mut Machine) -> Result<()> {
    let guest = machine.guest()?;
    let line = guest.ok("cat /proc/cmdline; findmnt --noheadings --output UUID /")?;
    let lvm = "root=/dev/mapper/".to_owned();
    let roots = [format!("root=UUID={ROOT_UUID}"), format!("root=PARTUUID={ROOT_PARTUUID}"), lvm];
    let named = roots.iter().any(|root| line.contains(root.as_str())) && line.trim_end().ends_with(ROOT_UUID);
    must(named, || format!("the command line, and the root: {line}"))?;
    let esp = guest.ok("findmnt --noheadings --output FSTYPE /boot/efi")?;
    must(esp.trim() == "vfat", || format!("on /boot/efi there is {esp:?}"))?;
    let units = guest.ok("systemctl is-system-running --wait; systemctl --failed --no-legend")?;
    must(units == "running\n", || format!("units that failed: {units}"))?;
    let waited =
        guest.ok("journalctl --boot --output cat | grep -c 'Timed out waiting for device' || true")?;
    must(waited.trim() == "0", || format!("units that waited for a device: {waited}"))
}

/// The primary boots as BIOS finds it, beside a DPSR disk that nothing was done with.
fn bios(rig: &Rig) -> Result<()> {
    let mut machine = rig.machine(Start::Bios, &[&rig.primary, &rig.dpsr])?;
    booted(&mut machine, "the primary by BIOS")?;
    is_the_primary(&mut machine)?;
    let efi = machine.guest()?.run("test -d /sys/firmware/efi")?.code;
    must(efi != 0, || "that was no BIOS".to_owned())?;
    machine.shut_down()
}

/// The same by UEFI, through the fallback path: its variables know of no system.
fn uefi(rig: &Rig) -> Result<()> {
    let mut machine = rig.machine(Start::Uefi, &[&rig.primary, &rig.dpsr])?;
    booted(&mut machine, "the primary by UEFI")?;
    is_the_primary(&mut machine)?;
    machine.guest()?.ok("test -d /sys/firmware/efi && efibootmgr")?;
    machine.shut_down()
}

/// `dpsr WORDS` in the guest, which must succeed; how long it took is told.
fn dpsr(machine: &mut Machine, words: &str) -> Result<String> {
    let start = Instant::now();
    let Done { code, output } = in_time(machine, PATIENCE, &format!("dpsr {words}"))?;
    say(format_args!("dpsr {words}: {:.1} s", start.elapsed().as_secs_f64()));
    must(code == 0, || format!("`dpsr {words}` (exit code {code}): {output}"))?;
    Ok(output)
}

/// The same with `--json`.
fn dpsr_json(machine: &mut Machine, words: &str) -> Result<Json> {
    let output = dpsr(machine, &format!("{words} --json"))?;
    let start = output.find('{').ok_or_else(|| format!("`dpsr {words}` printed no document: {output}"))?;
    Json::parse(&output[start..])
}

/// Pairs the disks.
fn init(machine: &mut Machine) -> Result<()> {
    let by_id = "/dev/disk/by-id/virtio-";
    let primary = format!("$(ls /dev/disk/by-id/md-uuid-{ARRAY_UUID} 2>/dev/null || echo {by_id}{PRIMARY})");
    let words = format!("init --primary {primary} --dpsr {by_id}{DPSR} --confirm {DPSR}");
    dpsr(machine, &words)?;
    // Nobody here minds a moment that is not quiet, and little is overwritten meanwhile.
    let live =
        "printf '\n[live]\nchunk = 16384\nquiet = 1\nquiet_limit = 3\n' >>/etc/dpsr/system.toml && sync";
    machine.guest()?.ok(live).map(drop)
}

/// Somebody has filled the ESP of the DPSR disk: it is not made bootable, and nothing says that it boots. With room, it is.
/// One that boots already, whatever the record says, goes on to.
fn no_room(machine: &mut Machine) -> Result<()> {
    /// How many of both say that it boots: the record, and the last one that is in the initramfs.
    const KNOWN: &str = "{ cat /etc/dpsr/system.toml; tail --bytes 4096 /boot/initrd.img-* | tr '\\0' '\\n' | tac | \
                         sed '/etc.dpsr.system.toml$/q'; } | grep --text --count '^boot = true'";
    /// What is on the ESP, without the filler, which goes.
    const EMPTIED: &str =
        "mount /dev/disk/by-label/DPSR-ESP /mnt && rm /mnt/filler && ls /mnt && umount /mnt";
    let known = |machine: &mut Machine, wanted: &str| {
        let known = machine.guest()?.run(KNOWN)?.output;
        must(known == wanted, || format!("{known} say that it boots"))
    };
    dpsr(machine, "boot uninstall")?;
    refused_without_room(machine, "nothing leads to the DPSR disk, as before")?;
    known(machine, "0\n")?;
    let left = machine.guest()?.ok(EMPTIED)?;
    must(left.is_empty(), || format!("on the ESP: {left}"))?;
    failover::made_bootable(machine)?;
    known(machine, "2\n")?;

    // Another record is another set.
    let other =
        "sed --in-place -e '/^boot = true/d' -e 's/^chunk = 16384/chunk = 8192/' /etc/dpsr/system.toml";
    machine.guest()?.ok(other)?;
    refused_without_room(machine, "something may still lead to the DPSR disk")?;
    known(machine, "0\n")?;
    let left = machine.guest()?.ok(EMPTIED)?;
    must(left.contains("EFI\n") && left.contains("dpsr\n"), || format!("on the ESP: {left}"))?;
    failover::made_bootable(machine).map(drop)
}

/// For a kernel there is room, and for an initramfs there is none.
fn refused_without_room(machine: &mut Machine, words: &str) -> Result<()> {
    let fill = "mount /dev/disk/by-label/DPSR-ESP /mnt && free=$(df --block-size=1M --output=avail /mnt | tail -n 1) && \
                dd if=/dev/zero of=/mnt/filler bs=1M count=$((free - 16)) status=none && umount /mnt";
    let filled = machine.run_within(PATIENCE, fill)?;
    must(filled.code == 0, || format!("filling the ESP: {filled:?}"))?;
    let refused = machine.run_within(PATIENCE, "dpsr boot install")?;
    must(refused.code == 5 && refused.output.contains(words), || format!("{refused:?}"))
}

/// The DPSR disk is made bootable once; then the primary is pulled, and both kinds of firmware start the kernel
/// and the initramfs from it.
fn dpsr_disk_alone(rig: &Rig) -> Result<()> {
    let mut machine = rig.machine(Start::Uefi, &[&rig.primary, &rig.dpsr])?;
    booted(&mut machine, "the primary by UEFI")?;
    init(&mut machine)?;
    let done = failover::made_bootable(&mut machine)?;
    must(done.find("bios") == Some(&Json::Bool(true)), || format!("{done:?}"))?;
    must(done.find("uefi_signed") == Some(&Json::Bool(true)), || format!("{done:?}"))?;

    let again = dpsr_json(&mut machine, "boot update")?;
    let idle = again.find("initramfs") == Some(&Json::Null) && again.list("written")?.is_empty();
    must(idle, || format!("a second update wrote something: {again:?}"))?;
    let status = dpsr_json(&mut machine, "boot status")?;
    must(status.find("current") == Some(&Json::Bool(true)), || format!("{status:?}"))?;
    must(status.list("findings")?.is_empty(), || format!("{status:?}"))?;
    let guest = machine.guest()?;
    let order = guest.ok("efibootmgr")?;
    must(order.contains("DPSR"), || format!("the firmware's list: {order}"))?;
    let left = guest.ok("findmnt --noheadings --list --types vfat --output TARGET")?;
    must(left == "/boot/efi\n", || format!("mounted: {left}"))?;
    no_room(&mut machine)?;
    machine.shut_down()?;

    for start in [Start::Bios, Start::Uefi] {
        let words = ["DPSR disk: loading the kernel", "Linux version", "dpsr.boot=auto", "dracut-cmdline"];
        let took = rig.machine(start.clone(), &[&rig.dpsr])?.watch(&words, PATIENCE)?;
        let seconds = took.as_secs_f64();
        say(format_args!("the DPSR disk alone by {start:?}, until its initramfs runs: {seconds:.1} s"));
    }
    Ok(())
}
