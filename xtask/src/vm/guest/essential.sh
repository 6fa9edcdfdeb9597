#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Run by mmdebstrap with the new root directory, before the packages: the initramfs is made while the kernel
# is installed, and has to boot any of these machines. Unpacking it is slow in emulation, hence no compression.
set -eu

mkdir -p "$1/etc/dracut.conf.d"
printf '%s\n' 'hostonly="no"' 'compress="cat"' >"$1/etc/dracut.conf.d/vm.conf"
