#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Read by dracut-initqueue(8), which gives up the root after so many rounds in vain. As long as dpsr decides, rolls back or
# ends a way back, there cannot be a root, and the rounds do not count.
# What is assigned here is read there.
# shellcheck disable=SC2034
if [ -e /run/dpsr/at-work ]; then
    main_loop=0
fi
