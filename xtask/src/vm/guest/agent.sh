#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs what the host asks for over the virtio port, one request at a time. A request is one line:
#   RUN COMMAND       runs it with sh; both outputs come back together
#   PUT SIZE PATH     SIZE raw bytes follow, which become the file PATH
#   GET PATH          the bytes of the file come back
# COMMAND and PATH are base64. The answer is "DONE CODE SIZE" and SIZE raw bytes. "READY BOOT-ID" is said once.
set -u

# Who waits in vain for an answer presses keys that make the kernel tell what it is doing.
echo 1 >/proc/sys/kernel/sysrq

exec 3<>/dev/virtio-ports/dpsr.agent
work=$(mktemp -d /run/dpsr-agent.XXXXXX)
output=$work/output

plain() {
    printf %s "$1" | base64 -d
}

# Only the size that is announced is sent, whatever a process left in the background still writes.
answer() {
    size=$(stat -L -c %s "$2")
    printf 'DONE %s %s\n' "$1" "$size" >&3
    head -c "$size" "$2" >&3
}

put() {
    mkdir -p "$(dirname "$2")" && head -c "$1" <&3 >"$2" && chmod 755 "$2"
}

printf 'READY %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r verb one two <&3; do
    rm -f "$output"
    case $verb in
        RUN)
            plain "$one" >"$work/command"
            sh "$work/command" </dev/null >"$output" 2>&1 3>&-
            answer $? "$output"
            ;;
        PUT)
            put "$one" "$(plain "$two")" 2>"$output"
            answer $? "$output"
            ;;
        GET)
            file=$(plain "$one")
            if [ -r "$file" ]; then
                answer 0 "$file"
            else
                echo "cannot be read" >"$output"
                answer 1 "$output"
            fi
            ;;
    esac
done
