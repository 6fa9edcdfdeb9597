// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps as calls to the kernel, and the taking back of a window that was given up. Everything a call needs
//! was opened and made before; nothing here opens, allocates, logs or looks at a filesystem.

use std::fs::File;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use super::plan::{Plan, raw};
use super::steps::{Position, Step};
use crate::sys::dm::{Control, Freeze, Number, Udev};
use crate::sys::freeze;

/// How long between two looks.
pub const GLANCE: Duration = Duration::from_millis(5);

/// How often something that does not go on is asked to again.
const TRIES: u32 = 3;

/// The kernel as the window sees it.
pub trait Kernel {
    /// Does a step.
    fn act(&self, step: Step) -> io::Result<()>;
    /// Forgets the tables that were loaded and are not active.
    fn forget(&self);
}

/// The real one.
pub struct Calls {
    control: Control,
    filesystems: Vec<File>,
    partitions: Vec<Number>,
    disk: Number,
    snapshot: Number,
}

impl Calls {
    /// With everything open; `filesystems` as in the plan.
    pub fn new(plan: &Plan, filesystems: Vec<File>) -> io::Result<Self> {
        let partitions = plan.partitions.iter().map(|number| raw(*number)).collect();
        let (disk, snapshot) = (raw(plan.disk), raw(plan.snapshot));
        Ok(Self { control: Control::open()?, filesystems, partitions, disk, snapshot })
    }
}

impl Kernel for Calls {
    fn act(&self, step: Step) -> io::Result<()> {
        match step {
            Step::Freeze(place) => unless(freeze::freeze(&self.filesystems[place]), Errno::EOPNOTSUPP),
            Step::SuspendPartition(place) => self.control.suspend(self.partitions[place], Freeze::Filesystem),
            Step::SuspendDisk => self.control.suspend(self.disk, Freeze::Filesystem),
            Step::ResumeSnapshot => self.control.resume(self.snapshot, Udev::PRIVATE),
            Step::ResumeDisk => self.control.resume(self.disk, Udev::PUBLIC),
            Step::ResumePartition(place) => self.control.resume(self.partitions[place], Udev::PUBLIC),
            Step::Thaw(place) => unless(freeze::thaw(&self.filesystems[place]), Errno::EINVAL),
        }
    }

    fn forget(&self) {
        for device in [self.disk, self.snapshot] {
            // One that has nothing loaded needs nothing; whatever else fails shows in the resuming.
            let _nothing_loaded = self.control.clear(device);
        }
    }
}

/// A filesystem that cannot freeze was written out, which is all that can be done for it; one that is not
/// frozen need not thaw.
fn unless(done: io::Result<()>, fine: Errno) -> io::Result<()> {
    done.or_else(|error| if error.raw_os_error() == Some(fine as i32) { Ok(()) } else { Err(error) })
}

/// Makes everything go on that waits because of a window that came to `position`. The freezer may still be in
/// the kernel with the step it had begun; `gone` says when it is not. How many calls failed for good.
///
/// What hangs in the kernel is waited for as long as it hangs: giving up would leave it suspended for ever.
pub fn take_back(
    kernel: &dyn Kernel,
    steps: &[Step],
    position: Position,
    gone: &mut dyn FnMut() -> bool,
) -> usize {
    kernel.forget();
    let mut pending = position.pending(steps).and_then(Step::back);
    let mut stuck = 0;
    for step in position.back(steps) {
        // What thaws writes to what it lies on, so that goes on first, even where it is what hangs.
        if let Some(below) = pending.take_if(|below| lies_on(step, *below)) {
            stuck += settle(kernel, below, gone);
        }
        stuck += usize::from(!insist(kernel, step));
    }
    stuck + pending.map_or(0, |step| settle(kernel, step, gone))
}

/// Whether making something go on writes to what another step makes go on.
fn lies_on(step: Step, below: Step) -> bool {
    match below {
        Step::ResumeDisk => true,
        Step::ResumePartition(_) => matches!(step, Step::Thaw(_)),
        _ => false,
    }
}

/// The same for a step that somebody else may be in the middle of: it may come to be done after this was
/// called.
fn settle(kernel: &dyn Kernel, step: Step, gone: &mut dyn FnMut() -> bool) -> usize {
    while !gone() {
        // It is called again below.
        let _for_now = kernel.act(step);
        sleep(GLANCE);
    }
    usize::from(!insist(kernel, step))
}

fn insist(kernel: &dyn Kernel, step: Step) -> bool {
    (0..TRIES).any(|_| {
        let went = kernel.act(step).is_ok();
        if !went {
            sleep(GLANCE);
        }
        went
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::snapshot::window::steps::steps;

    /// What waits and what is loaded, as the kernel has it; fails the steps it is told to.
    #[derive(Default)]
    struct Twin {
        waiting: RefCell<Vec<Step>>,
        origin_loaded: RefCell<bool>,
        origin_live: RefCell<bool>,
        snapshot_live: RefCell<bool>,
    }

    impl Kernel for Twin {
        fn act(&self, step: Step) -> io::Result<()> {
            let mut waiting = self.waiting.borrow_mut();
            match step {
                Step::ResumeSnapshot => *self.snapshot_live.borrow_mut() = true,
                Step::ResumeDisk => {
                    *self.origin_live.borrow_mut() |= self.origin_loaded.replace(false);
                    waiting.retain(|it| it.back() != Some(step));
                }
                Step::ResumePartition(_) | Step::Thaw(_) => {
                    let disk = waiting.contains(&Step::SuspendDisk);
                    let below = waiting.iter().any(|it| matches!(it, Step::SuspendPartition(_)));
                    let below = below && matches!(step, Step::Thaw(_));
                    assert!(!disk && !below, "{step:?} writes to what waits: {waiting:?}");
                    waiting.retain(|it| it.back() != Some(step));
                }
                _ => waiting.push(step),
            }
            Ok(())
        }

        fn forget(&self) {
            *self.origin_loaded.borrow_mut() = false;
        }
    }

    /// Whether the step that was begun is done, although nobody noted it.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Pending {
        Never,
        Already,
        Late,
    }

    /// Gives the window up at every position, with the step that was begun done in the end or not.
    #[test]
    fn nothing_waits_wherever_it_was_given_up() {
        let all = steps(2, 3);
        for word in 0..=2 * all.len() as u64 {
            for pending in [Pending::Never, Pending::Already, Pending::Late] {
                let position = Position::of_word(word);
                let twin = Twin { origin_loaded: true.into(), ..Twin::default() };
                all[..position.done].iter().for_each(|step| twin.act(*step).unwrap());
                let already = position.pending(&all).filter(|_| pending == Pending::Already);
                already.into_iter().for_each(|step| twin.act(step).unwrap());
                let mut looks = 0;
                let stuck = take_back(&twin, &all, position, &mut || {
                    looks += 1;
                    let late = position.pending(&all).filter(|_| looks == 2 && pending == Pending::Late);
                    late.into_iter().for_each(|step| twin.act(step).unwrap());
                    looks > 2
                });
                assert_eq!((stuck, twin.waiting.take()), (0, vec![]), "{position:?}");
                let (origin, snapshot) = (twin.origin_live.take(), twin.snapshot_live.take());
                assert!(!origin || snapshot, "{position:?}: an origin without its snapshot");
            }
        }
    }
}
