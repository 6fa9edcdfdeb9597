// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Debian packages a task needs, and getting them.

use std::env;
use std::fs;
use std::io::{self, BufRead, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::process;
use crate::scratch::Scratch;
use crate::sources;

/// What compiling dpsr needs besides Rust; libclang reads the kernel headers of device-mapper.
pub const BUILD: &[&str] = &["gcc", "pkg-config", "libudev-dev", "libdevmapper-dev", "libclang-dev"];

/// What the tests call: losetup, blkid, wipefs; sfdisk; sgdisk; mkfs.fat; mkfs.ext4; mkfs.xfs; the independent
/// reader; the check of the shell scripts.
pub const TEST: &[&str] =
    &["util-linux", "fdisk", "gdisk", "dosfstools", "e2fsprogs", "xfsprogs", "python3", "shellcheck"];

/// What virtual machines are built and run with: ovmf is their UEFI, mtools fills a FAT partition in a file,
/// binutils has strip, lvm2 and btrfs-progs make what a root stands on.
pub const VM: &[&str] = &[
    "mmdebstrap",
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "mtools",
    "tar",
    "binutils",
    "lvm2",
    "btrfs-progs",
];

/// Those of them that come from the backports of this machine's release, where that can be had: the QEMU there
/// emulates more than twice as fast as that of Debian 12.
const NEWER: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// How often their list is asked for, and how long to wait in between: an archive has bad minutes.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(20);

/// What the measurements call; the tools dpsr is compared with are measured where they are present.
pub const BENCH: &[&str] = &["util-linux", "fio", "time"];

/// Makes sure that `wanted` are installed: says what is missing, and installs it when told to.
///
/// Where packages are not Debian's, only the names are listed: the task goes on and its own steps fail if
/// something is really absent.
pub fn ensure(wanted: &[&str], yes: bool) -> Result<()> {
    if !is_debian() {
        println!("not Debian or Ubuntu: please make sure that these are there: {}", wanted.join(" "));
        return Ok(());
    }
    let missing = missing(wanted)?;
    if missing.is_empty() {
        println!("packages: all there ({})", wanted.join(" "));
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = format!("apt-get update && apt-get install {list}");
    println!("packages missing: {list}");
    if !process::is_root() {
        return Err(format!("packages are missing; as root, run: {by_hand}"));
    }
    if !yes && !agreed("Install them with apt-get? [y/N] ")? {
        return Err(format!("packages are missing; install them with --yes, or run: {by_hand}"));
    }
    install(&missing, wanted)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Acquire::Retries=3"]);
    command
}

fn install(missing: &[&str], wanted: &[&str]) -> Result<()> {
    process::watched(apt().args(["update", "--quiet"]))?;
    let mut missing = missing.to_vec();
    if missing.contains(&NEWER[0]) {
        match from_backports() {
            Ok(()) => missing.retain(|name| !NEWER.contains(name)),
            Err(why) => println!("{why}, ignoring: the release's own QEMU does, and takes twice as long"),
        }
    }
    if missing.is_empty() { Ok(()) } else { from_release(&missing, wanted) }
}

/// Installs [`NEWER`] from the backports, which the machine's own list of sources need not have, nor has afterwards.
fn from_backports() -> Result<()> {
    let (suite, lines) = sources::backports().filter(|(_, lines)| !lines.is_empty()).ok_or("no backports")?;
    let scratch = Scratch::new(&env::temp_dir(), "apt")?;
    let list = |name: &str, text: String| -> Result<String> {
        let file = scratch.path().join(name);
        fs::write(&file, text).map_err(|error| format!("writing {}: {error}", file.display()))?;
        Ok(format!("Dir::Etc::sourcelist={}", file.display()))
    };
    let lines = lines.join("\n") + "\n";
    let own = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let (alone, all) = (list("alone.list", lines.clone())?, list("all.list", format!("{own}\n{lines}"))?);
    let only = ["-o", &alone, "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Get::List-Cleanup=0"];
    updated(&only)?;
    let options = ["install", "--quiet", "--yes", "--no-install-recommends", "--no-remove", "-t", &suite];
    process::watched(apt().args(options).args(["-o", &all]).args(NEWER))
}

/// Gets the lists of packages. One that could not be had would be no failure otherwise, and nothing is found
/// afterwards.
fn updated(only: &[&str]) -> Result<()> {
    let update = || process::watched(apt().args(["update", "--quiet", "--error-on=any"]).args(only));
    for _ in 1..ATTEMPTS {
        let Err(why) = update() else { return Ok(()) };
        println!("{why}, trying again in {} s", PAUSE.as_secs());
        thread::sleep(PAUSE);
    }
    update()
}

fn from_release(missing: &[&str], wanted: &[&str]) -> Result<()> {
    let options = ["install", "--quiet", "--yes", "--no-install-recommends"];
    // What is on the machine stays. The one exception is a package that is wanted itself and there in a version
    // from elsewhere, next to which the release's own relatives of it cannot be: it gets their version.
    let plan = process::output(apt().arg("--simulate").args(options).args(missing))?;
    let mut chosen: Vec<String> = missing.iter().map(|name| (*name).to_owned()).collect();
    for name in removed(&plan).into_iter().filter(|name| wanted.contains(name)) {
        let offered = process::output(Command::new("apt-cache").args(["madison", name]))?;
        if let Some(version) = first_offered(&offered) {
            println!(
                "{name}: version {version} goes with the others, and takes the place of the present one"
            );
            chosen.push(format!("{name}={version}"));
        }
    }
    process::watched(apt().args(options).args(["--no-remove", "--allow-downgrades"]).args(chosen))
}

/// The packages that a plan of apt-get(8) takes away.
fn removed(plan: &str) -> Vec<&str> {
    plan.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next()).collect()
}

/// The version that apt-cache(8) `madison` lists first, which is the newest that can be had.
fn first_offered(listed: &str) -> Option<&str> {
    listed.lines().next()?.split('|').nth(1).map(str::trim)
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&release) && process::find("dpkg-query").is_some()
}

/// Whether an os-release(5) file is Debian's or that of a relative (`ID_LIKE`).
fn names_debian(release: &str) -> bool {
    let values =
        release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    values.flat_map(|value| value.trim_matches('"').split(' ')).any(|id| id == "debian" || id == "ubuntu")
}

fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query exits 1 when it does not know one of the names, so only its list counts.
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Abbrev} ${Package}\\n"]).args(wanted);
    let done = query.output().map_err(|error| format!("starting dpkg-query: {error}"))?;
    Ok(not_installed(wanted, &String::from_utf8_lossy(&done.stdout)))
}

fn not_installed<'a>(wanted: &[&'a str], listed: &str) -> Vec<&'a str> {
    let installed: Vec<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("ii ")).map(str::trim).collect();
    wanted.iter().copied().filter(|name| !installed.contains(name)).collect()
}

fn agreed(question: &str) -> Result<bool> {
    let failed = |error: io::Error| format!("asking on the terminal: {error}");
    print!("{question}");
    io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        let listed = "ii  gcc\nrc  gdisk\nun  shellcheck\nii  libudev-dev\n";
        let wanted = ["gcc", "gdisk", "shellcheck", "libudev-dev", "unheard-of"];
        assert_eq!(not_installed(&wanted, listed), ["gdisk", "shellcheck", "unheard-of"]);
    }

    #[test]
    fn what_a_plan_takes_away_and_what_is_offered() {
        let plan = "Reading lists...\nRemv qemu-utils [1:10.0]\nInst fdisk (2.38 Debian:12 [amd64])\n";
        assert_eq!(removed(plan), ["qemu-utils"]);
        let listed =
            "qemu-utils | 1:7.2+dfsg-7 | http://x bookworm/main amd64 Packages\nqemu-utils | 1:7.1 | y\n";
        assert_eq!(first_offered(listed), Some("1:7.2+dfsg-7"));
        assert_eq!(first_offered(""), None);
    }

    #[test]
    fn relatives_of_debian_count() {
        assert!(names_debian("NAME=x\nID=debian\n"));
        assert!(names_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nVARIANT_ID=debian\n"));
    }
}
