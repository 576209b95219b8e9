# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# Booting: each machine has its own directory with a plan for init.c, a list of files for its initramfs, and the output
# of the ports through which results come back.
#
# vm_new sets VM, the directory, and the properties of the machine: VM_CPUS, VM_MEM in MiB, VM_TIME, the timeout in
# seconds (0: none), VM_APPEND, words of its kernel command line, and VM_CLOCK, see vm_counted. Change VM_CPUS and
# VM_CLOCK before vm_kvm, and the others before vm_run. vm_kvm sets VM_VENDOR, the vendor's module.

# vm_new [DIR]: set up a machine with the selected kernel, in this directory or in a new one.
vm_new()
{
	mkdir -p "$BUILD"
	VM=${1:-$(mktemp -d "$BUILD/vm.XXXXXX")}
	: > "$VM/plan"
	: > "$VM/libs"
	cat > "$VM/cpio" <<-END
		dir /dev 755 0 0
		nod /dev/console 600 0 0 c 5 1
		dir /proc 755 0 0
		dir /sys 755 0 0
		dir /tmp 1777 0 0
		dir /bin 755 0 0
		dir /disk 755 0 0
		dir /modules 755 0 0
		file /init $(arch_out)/pid1 755 0 0
		file /plan $VM/plan 644 0 0
	END
	VM_CPUS=2 VM_MEM=3072 VM_TIME=600 VM_APPEND='' VM_CLOCK='' VM_VENDOR=''
}

# vm_counted: make the clock advance by a nanosecond with each instruction, and by nothing else. This is limited to one
# emulated CPU.
vm_counted()
{
	VM_CLOCK=counted VM_CPUS=1
}

# vm_plan FIELD...: add a line to the plan.
vm_plan()
{
	local line='' field

	for field; do
		case $field in *"	"*|*"
"*)	die "tabs and newlines cannot be passed to the machine: '$field'" ;; esac
		line=${line:+$line	}$field
	done
	printf '%s\n' "$line" >> "$VM/plan"
}

# vm_file FILE [NAME]: add the file as /bin/NAME, with the libraries it needs, if any, where it looks for them.
vm_file()
{
	local path

	path=$(cd "$(dirname "$1")" && pwd -P)/$(basename "$1")
	[ -r "$path" ] || die "cannot read $1"
	case $path in *" "*) die "files with a space in their path cannot be added: $path" ;; esac
	echo "file /bin/${2:-$(basename "$1")} $path 755 0 0" >> "$VM/cpio"
	ldd "$path" 2> /dev/null | awk '
		/not found/ { print "missing " $1 }
		$2 == "=>" && $3 ~ /^\// { print $1 ~ /^\// ? $1 : $3, $3 }
		$1 ~ /^\// && $2 != "=>" { print $1, $1 }' >> "$VM/libs"
}

# vm_module_file MODULE: add it.
vm_module_file()
{
	local ko

	ko=$(find "$OUT/arch" "$OUT/virt" "$OUT/lib" -name "$1.ko" | head -n 1)
	[ -n "$ko" ] || die "module $1 was not built"
	echo "file /modules/$1.ko $ko 644 0 0" >> "$VM/cpio"
}

# vm_module MODULE [PARAMETER=VALUE...]: add it, and load it at this point of the plan.
vm_module()
{
	vm_module_file "$1"
	vm_plan insmod "$@"
}

# vm_kvm PARAMETER...: load KVM and the module of the CPU's vendor. A PARAMETER is [MODULE.]NAME=VALUE, or nested=0|1
# for nested paging, which has a different name with each vendor.
vm_kvm()
{
	local paging kvm='' arch='' param

	if [ "$KARCH" != x86_64 ]; then
		[ $# -eq 0 ] || die "KVM is built in on $KARCH: use --append kvm.NAME=VALUE, not the parameter '$1'"
		return
	fi
	case $(vm_accel) in
	kvm-intel) VM_VENDOR=kvm-intel paging=ept ;;
	kvm-amd)	VM_VENDOR=kvm-amd paging=npt ;;
	tcg)	VM_VENDOR=kvm-amd paging=npt
		# In QEMU's emulation (seen in 7.2 and 10.0) a VM must not run on CPU 0. Any CPU that restores x87
		# state, e.g. with XRSTOR, clears a flag in CPU 0's env->hflags2, by a read and a write
		# (cpu_clear_ignne()). If VMRUN or #VMEXIT on CPU 0 changes another flag in between, CPU 0 continues in
		# the wrong mode: the host's registers end up in the guest's VMCB, or interrupts nest until the machine
		# stalls. This happened once in some ten thousand conversions of guest_memfd_busy_test. So add a CPU,
		# and have init.c keep all programs off CPU 0. A machine with a single CPU does not have this race.
		if [ "$VM_CPUS" -gt 1 ]; then
			VM_CPUS=$((VM_CPUS + 1))
			vm_plan avoid 0
		fi ;;
	esac
	for param; do
		case $param in
		nested=*) arch="$arch $paging=${param#*=}" ;;
		kvm.*=*) kvm="$kvm ${param#*.}" ;;
		kvm[-_]amd.*=*|kvm[-_]intel.*=*) arch="$arch ${param#*.}" ;;
		*.*=*)	die "unknown module in '$param': expected kvm, kvm_amd or kvm_intel" ;;
		*=*)	kvm="$kvm $param" ;;
		*)	die "module parameter '$param' has no value" ;;
		esac
	done
	vm_module irqbypass
	# shellcheck disable=SC2086 # lists of parameters
	vm_module kvm $kvm
	# shellcheck disable=SC2086
	vm_module "$VM_VENDOR" $arch
}

# Unload KVM after the tests: this reveals caches that are not empty, and leaked references to files.
vm_kvm_unload()
{
	[ -n "$VM_VENDOR" ] || return 0
	vm_plan rmmod "$VM_VENDOR"
	vm_plan rmmod kvm
	vm_plan rmmod irqbypass
}

# Print how to run machines: "tcg", or "kvm-amd" or "kvm-intel" if nested virtualization is known to work. The existence
# of /dev/kvm is not enough: check the CPU flags, and run a probe, once per boot of the host.
vm_accel()
{
	local boot memo="$BUILD/accel" flag accel=tcg try=''

	# Only TCG can count instructions.
	if [ "${VM_CLOCK:-}" = counted ]; then
		echo tcg
		return
	fi
	boot=$(cat /proc/sys/kernel/random/boot_id)
	if [ -e "$memo" ] && [ "$(sed -n 1p "$memo")" = "$boot" ]; then
		sed -n 2p "$memo"
		return
	fi
	flag=$(grep -m 1 '^flags' /proc/cpuinfo | grep -ow -m 1 'svm\|vmx') || :
	case $flag in
	svm)	try='kvm-amd' ;;
	vmx)	try='kvm-intel' ;;
	esac
	if [ -n "$try" ] && [ -w /dev/kvm ]; then
		# The probe is a machine like any other, so record what to use before it looks here.
		printf '%s\n%s\n' "$boot" $try > "$memo"
		mkdir -p "$LOGS"
		if (accel_probe) > "$LOGS/accel-probe.log" 2>&1; then
			accel=$try
		fi
	fi
	printf '%s\n%s\n' "$boot" $accel > "$memo"
	echo $accel
}

accel_probe()
{
	kernel_take x86_64
	vm_new
	trap 'rm -rf "$VM"' EXIT
	vm_kvm
	vm_file "$OUT/selftests/kvm/x86/private_mem_kvm_exits_test"
	vm_plan run probe 30 /bin/private_mem_kvm_exits_test
	VM_TIME=60
	vm_run
	grep -q '^exit probe 0 ' "$VM/verdict" && grep -qx end "$VM/verdict"
}

vm_images()
{
	local missing

	# Add each library once, with its parent directories.
	missing=$(sed -n 's/^missing //p' "$VM/libs" | tr '\n' ' ')
	[ -z "$missing" ] || die "libraries not found on this machine: $missing"
	sort -u "$VM/libs" | awk '
		{
			n = split($1, part, "/")
			dir = ""
			for (i = 2; i < n; i++) {
				dir = dir "/" part[i]
				if (!seen[dir]++)
					print "dir", dir, "755 0 0"
			}
			if (!seen[$1]++)
				print "file", $1, $2, "755 0 0"
		}' >> "$VM/cpio"
	"$OUT/usr/gen_init_cpio" "$VM/cpio" > "$VM/initramfs" || die "cannot make the initramfs"
	cp "$(kernel_image)" "$VM/kernel"
	# A disk for tests that need an ordinary file system; init.c mounts it on /disk.
	truncate -s 64M "$VM/disk"
	mke2fs -q -F -t ext2 "$VM/disk" || die "cannot make the disk"
}

# vm_discard DIR: remove the large files of a machine that has ended.
vm_discard()
{
	rm -f "$1/packed" "$1/kernel" "$1/initramfs" "$1/disk"
}

# vm_run [tty|stdio]: boot and wait for the end. With `tty` the terminal is the machine's console hvc0, with `stdio` the
# output of programs goes to standard output, otherwise to the file "output" in $VM. The results are in $VM/verdict.
# Build output may change once the file "packed" exists in $VM.
vm_run()
{
	local terminal="${1:-}" console=ttyS0 limit='' checks='' rc=0 port

	# Take kernel and modules from the same build.
	hold build
	vm_images
	release
	: > "$VM/packed"
	case $KARCH:$(vm_accel) in
	arm64:*) # The architected algorithm for pointer authentication is slow in emulation.
		set -- qemu-system-aarch64 -machine virt,virtualization=on,gic-version=3 -accel tcg,thread=multi \
			-cpu max,pauth-impdef=on
		console=ttyAMA0 ;;
	*:tcg)	set -- qemu-system-x86_64 -machine q35 -cpu EPYC,+svm,+npt
		if [ "$VM_CLOCK" = counted ]; then
			set -- "$@" -accel tcg,thread=single -icount shift=0,sleep=off
		else
			set -- "$@" -accel tcg,thread=multi
			# The kernel expects ten timer ticks to be on time, but they are late if the host is busy.
			checks=no_timer_check
		fi ;;
	*)	set -- qemu-system-x86_64 -machine q35 -accel kvm -cpu host ;;
	esac
	set -- "$@" -nodefaults -no-user-config -display none -monitor none -no-reboot \
		-smp "$VM_CPUS,sockets=$VM_CPUS" -m "${VM_MEM}M"
	# Put the last CPU into a NUMA node of its own.
	[ "$VM_CPUS" -eq 1 ] || set -- "$@" \
		-object memory-backend-ram,id=m0,size=$((VM_MEM / 2))M \
		-object memory-backend-ram,id=m1,size=$((VM_MEM - VM_MEM / 2))M \
		-numa node,nodeid=0,cpus=0-$((VM_CPUS - 2)),memdev=m0 -numa node,nodeid=1,cpus=$((VM_CPUS - 1)),memdev=m1
	set -- "$@" \
		-kernel kernel -initrd initramfs \
		-drive file=disk,format=raw,if=none,id=disk -device virtio-blk-pci,drive=disk \
		-serial file:console -device virtio-serial-pci
	for port in verdict output; do
		set -- "$@" -chardev file,id=$port,path=$port -device virtserialport,chardev=$port,name=$port
	done
	if [ "$terminal" = tty ]; then
		set -- "$@" -chardev stdio,id=tty,signal=off -device virtconsole,chardev=tty
	fi
	# Panic on any warning, lockup or stall.
	set -- "$@" -append "console=$console loglevel=7 panic=-1 oops=panic panic_on_warn=1 softlockup_panic=1 \
sysctl.kernel.hung_task_panic=1 sysctl.kernel.panic_on_rcu_stall=1 $checks $VM_APPEND"
	[ "$VM_TIME" -eq 0 ] || limit="timeout --foreground $VM_TIME"
	if [ "$terminal" = stdio ]; then
		# Don't use QEMU's own stdio: at the end of its input, it would block the guest's output, too. Hold the
		# pipe open until the machine has ended: otherwise, cat would wait forever if QEMU failed to start.
		mkfifo "$VM/output"
		exec 9<> "$VM/output"
		cat "$VM/output" 9>&- &
	fi
	# shellcheck disable=SC2086 # a command and its arguments
	(cd "$VM" && exec $limit "$@" 2> qemu.err 9>&-) || rc=$?
	vm_discard "$VM"
	if [ "$terminal" = stdio ]; then
		exec 9>&-
		wait $!
	fi
	return $rc
}

# vm_ended DIR: succeed if the machine reached the end of its plan without warnings. Otherwise print what happened. DIR
# is where to find the console's log afterwards, and is only printed.
vm_ended()
{
	if grep -qx end "$VM/verdict" 2> /dev/null && ! grep -q '^fatal \|^splat ' "$VM/verdict"; then
		return 0
	fi
	grep '^fatal \|^splat ' "$VM/verdict" 2> /dev/null || :
	if ! grep -qx end "$VM/verdict" 2> /dev/null && ! grep -q '^fatal ' "$VM/verdict"; then
		echo "the machine died or ran out of time; its console from the first warning on:"
		grep -v "TCG doesn.t support" "$VM/qemu.err" || :
		awk '/WARNING:|BUG:|Oops|INFO: |Kernel panic|general protection/ { on = 1 } on && n++ < 40' \
			"$VM/console" 2> /dev/null
	fi
	echo "console: $1/console"
	return 1
}

cmd_boot()
{
	local params='' shell='' terminal=stdio stty='' rc=0 size applet program

	if [ "${1:-}" = --kernel ] && [ $# -ge 2 ]; then
		kernel_take "$2"
		shift 2
	fi
	have_kernel
	vm_new
	trap 'rm -rf "$VM"' EXIT
	VM_TIME=0
	while [ $# -gt 0 ]; do
		case $1 in
		--param|--append|--file|--mem|--time)
			[ $# -ge 2 ] || die "boot: $1 needs a value" ;;
		esac
		case $1 in
		--param)	params="$params $2"; shift ;;
		--append)	VM_APPEND="$VM_APPEND $2"; shift ;;
		--file)		vm_file "$2"; shift ;;
		--mem)		VM_MEM=$2; shift ;;
		--time)		VM_TIME=$2; shift ;;
		--shell)	shell=1 ;;
		--)		shift; break ;;
		-*)		die "boot: no option '$1'; see 'wb help'" ;;
		*)		break ;;
		esac
		shift
	done
	if [ -t 0 ] && [ -t 1 ]; then
		terminal='tty'
		size=$(stty size)
		vm_plan env "LINES=${size% *}"
		vm_plan env "COLUMNS=${size#* }"
		vm_plan env "TERM=${TERM:-linux}"
	fi
	vm_plan env PATH=/bin
	vm_plan env HOME=/
	# shellcheck disable=SC2086 # a list of parameters
	vm_kvm $params
	vm_file "$(command -v busybox)" busybox
	for applet in sh ls cat dmesg mount ps grep; do
		echo "slink /bin/$applet busybox 777 0 0" >> "$VM/cpio"
	done
	if [ -n "$shell" ] || [ $# -eq 0 ]; then
		[ $terminal = tty ] || die "boot: a shell needs a terminal"
		note "a shell in the machine; 'exit' ends it. busybox --list names its commands"
		set -- /bin/sh
	else
		vm_file "$(command -v "$1" || echo "$1")"
		program=/bin/$(basename "$1")
		shift
		set -- "$program" "$@"
	fi
	if [ $terminal = tty ]; then
		vm_plan tty program 0 "$@"
	else
		vm_plan run program 0 "$@"
	fi
	vm_kvm_unload
	[ $terminal != tty ] || stty=$(stty -g)
	vm_run $terminal || rc=$?
	[ -z "$stty" ] || stty "$stty"
	vm_ended "$VM" >&2 || {
		trap - EXIT
		exit 125
	}
	exit "$(awk '$1 == "exit" && $2 == "program" { print $3 }' "$VM/verdict")"
}
