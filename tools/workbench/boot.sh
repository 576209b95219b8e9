# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# Booting: a machine is a folder of its own with a plan for init.c, a list of files for its initramfs, and the ports
# through which the tests' output comes back.

# vm_new [DIR]: a machine with the kernel taken, in this folder or in a new one.
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
		file /init $ARCH_OUT/pid1 755 0 0
		file /plan $VM/plan 644 0 0
	END
	vm_cpus=2 vm_mem=3072 vm_time=600 vm_append='' vm_clock=''
}

# vm_counted: the clock counts instructions, each a nanosecond, and stands still for nothing else. That takes one
# emulated CPU.
vm_counted()
{
	vm_clock=counted vm_cpus=1
}

# vm_plan FIELD...: one line of the plan.
vm_plan()
{
	_line=
	for _field; do
		case $_field in *"	"*|*"
"*)	die "tabs and newlines cannot be passed to the machine: '$_field'" ;; esac
		_line=${_line:+$_line	}$_field
	done
	printf '%s\n' "$_line" >> "$VM/plan"
}

# vm_file FILE [NAME]: the file as /bin/NAME, with the libraries it needs, if any, where it looks for them.
vm_file()
{
	_path=$(cd "$(dirname "$1")" && pwd -P)/$(basename "$1")
	[ -r "$_path" ] || die "cannot read $1"
	case $_path in *" "*) die "a path with a space cannot be brought along: $_path" ;; esac
	echo "file /bin/${2:-$(basename "$1")} $_path 755 0 0" >> "$VM/cpio"
	ldd "$_path" 2> /dev/null | awk '
		/not found/ { print "missing " $1 }
		$2 == "=>" && $3 ~ /^\// { print $1 ~ /^\// ? $1 : $3, $3 }
		$1 ~ /^\// && $2 != "=>" { print $1, $1 }' >> "$VM/libs"
}

# vm_module MODULE [PARAMETER=VALUE...]: bring it along and load it at this point of the plan.
vm_module_file()
{
	_ko=$(find "$OUT/arch" "$OUT/virt" "$OUT/lib" -name "$1.ko" | head -n 1)
	[ -n "$_ko" ] || die "module $1 was not built"
	echo "file /modules/$1.ko $_ko 644 0 0" >> "$VM/cpio"
}

vm_module()
{
	vm_module_file "$1"
	vm_plan insmod "$@"
}

# vm_kvm PARAMETER...: load KVM and the module of the CPU's vendor. A PARAMETER is [MODULE.]NAME=VALUE, or nested=0|1,
# whatever the vendor calls nested paging.
vm_kvm()
{
	_vendor=''
	if [ "$KARCH" != x86_64 ]; then
		[ $# -eq 0 ] || die "KVM is no module on $KARCH: parameter '$1' cannot be given"
		return
	fi
	case $(vm_accel) in
	kvm-intel) _vendor=kvm-intel _paging=ept ;;
	kvm-amd)	_vendor=kvm-amd _paging=npt ;;
	tcg)	_vendor=kvm-amd _paging=npt
		# In QEMU's emulation (seen in 7.2 and 10.0) no VM can run on CPU 0: whichever CPU restores x87 state, with
		# XRSTOR, say, clears a flag in CPU 0's env->hflags2, by a read and a write (cpu_clear_ignne()). If VMRUN or
		# #VMEXIT on CPU 0 changes another flag between the two, CPU 0 goes on in the wrong mode: the host's
		# registers end up in the guest's VMCB, or interrupts nest. So here is a CPU more, and CPU 0 is left alone.
		# A machine with a single CPU has no such race.
		if [ $vm_cpus -gt 1 ]; then
			vm_cpus=$((vm_cpus + 1))
			vm_plan avoid 0
		fi ;;
	esac
	_kvm='' _arch=''
	for _param; do
		case $_param in
		nested=*) _arch="$_arch $_paging=${_param#*=}" ;;
		kvm.*=*) _kvm="$_kvm ${_param#*.}" ;;
		kvm[-_]amd.*=*|kvm[-_]intel.*=*) _arch="$_arch ${_param#*.}" ;;
		*.*=*)	die "module of '$_param' unknown: kvm, kvm_amd or kvm_intel" ;;
		*=*)	_kvm="$_kvm $_param" ;;
		*)	die "module parameter '$_param' has no value" ;;
		esac
	done
	vm_module irqbypass
	# shellcheck disable=SC2086 # lists of parameters
	vm_module kvm $_kvm
	# shellcheck disable=SC2086
	vm_module $_vendor $_arch
}

# After the tests: unloading tells of caches that are not empty and files that leaked a reference.
vm_kvm_unload()
{
	[ -n "$_vendor" ] || return 0
	vm_plan rmmod "$_vendor"
	vm_plan rmmod kvm
	vm_plan rmmod irqbypass
}

# Which way machines run: "tcg", or "kvm-amd" or "kvm-intel" where hardware virtualization nests for certain. That
# /dev/kvm exists says nothing; the CPU flags and a probe decide, once per boot of the host.
vm_accel()
{
	# Nothing else can count.
	if [ "${vm_clock:-}" = counted ]; then
		echo tcg
		return
	fi
	_boot=$(cat /proc/sys/kernel/random/boot_id)
	_memo=$BUILD/accel
	if [ -e "$_memo" ] && [ "$(sed -n 1p "$_memo")" = "$_boot" ]; then
		sed -n 2p "$_memo"
		return
	fi
	_flag=$(grep -m 1 '^flags' /proc/cpuinfo | grep -ow -m 1 'svm\|vmx') || :
	_accel=tcg
	case $_flag in
	svm)	_try=kvm-amd ;;
	vmx)	_try=kvm-intel ;;
	*)	_try= ;;
	esac
	if [ -n "$_try" ] && [ -w /dev/kvm ]; then
		# The probe is a machine like any other, so let it find its own way set.
		printf '%s\n%s\n' "$_boot" $_try > "$_memo"
		mkdir -p "$LOGS"
		if (accel_probe) > "$LOGS/accel-probe.log" 2>&1; then
			_accel=$_try
		fi
	fi
	printf '%s\n%s\n' "$_boot" $_accel > "$_memo"
	echo $_accel
}

accel_probe()
{
	kernel_take x86_64
	vm_new
	trap 'rm -rf "$VM"' EXIT
	vm_kvm
	vm_file "$OUT/selftests/kvm/x86/private_mem_kvm_exits_test"
	vm_plan run probe 30 /bin/private_mem_kvm_exits_test
	vm_time=60
	vm_run
	grep -q '^exit probe 0 ' "$VM/verdict" && grep -qx end "$VM/verdict"
}

vm_images()
{
	# Libraries: each once, with the folders they stand in.
	! _missing=$(grep '^missing ' "$VM/libs") || die "libraries not found on this machine: $_missing"
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
	cp "$OUT/$IMAGE" "$VM/kernel"
	# A disk for what needs an ordinary file system; init.c mounts it on /disk.
	truncate -s 64M "$VM/disk"
	mke2fs -q -F -t ext2 "$VM/disk" || die "cannot make the disk"
}

# vm_run [tty|stdio]: boot and wait for the end. With `tty` the terminal is the machine's console hvc0, with `stdio`
# what the plan runs writes to standard output, otherwise to the file "output" in $VM.
# What became of it is for the caller to read from $VM/verdict.
vm_run()
{
	_terminal=${1:-}
	# Kernel and modules of one build, whatever is built meanwhile.
	hold build
	vm_images
	release
	_console=ttyS0
	case $KARCH:$(vm_accel) in
	arm64:*) # An ordinary pointer authentication is slow in emulation.
		set -- qemu-system-aarch64 -machine virt,virtualization=on,gic-version=3 -accel tcg,thread=multi \
			-cpu max,pauth-impdef=on
		_console=ttyAMA0 ;;
	*:tcg)	set -- qemu-system-x86_64 -machine q35 -cpu EPYC,+svm,+npt
		if [ "$vm_clock" = counted ]; then
			set -- "$@" -accel tcg,thread=single -icount shift=0,sleep=off
		else
			set -- "$@" -accel tcg,thread=multi
		fi ;;
	*)	set -- qemu-system-x86_64 -machine q35 -accel kvm -cpu host ;;
	esac
	set -- "$@" -nodefaults -no-user-config -display none -monitor none -no-reboot -smp $vm_cpus,sockets=$vm_cpus -m ${vm_mem}M
	# The last CPU is a NUMA node of its own.
	[ $vm_cpus -eq 1 ] || set -- "$@" \
		-object memory-backend-ram,id=m0,size=$((vm_mem / 2))M \
		-object memory-backend-ram,id=m1,size=$((vm_mem - vm_mem / 2))M \
		-numa node,nodeid=0,cpus=0-$((vm_cpus - 2)),memdev=m0 -numa node,nodeid=1,cpus=$((vm_cpus - 1)),memdev=m1
	set -- "$@" \
		-kernel kernel -initrd initramfs \
		-drive file=disk,format=raw,if=none,id=disk -device virtio-blk-pci,drive=disk \
		-serial file:console -device virtio-serial-pci
	for _port in verdict output; do
		set -- "$@" -chardev file,id=$_port,path=$_port -device virtserialport,chardev=$_port,name=$_port
	done
	if [ "$_terminal" = tty ]; then
		set -- "$@" -chardev stdio,id=tty,signal=off -device virtconsole,chardev=tty
	fi
	# Any complaint of the kernel ends the machine.
	set -- "$@" -append "console=$_console loglevel=7 panic=-1 oops=panic panic_on_warn=1 softlockup_panic=1 \
sysctl.kernel.hung_task_panic=1 sysctl.kernel.panic_on_rcu_stall=1 $vm_append"
	_limit=
	[ "$vm_time" -eq 0 ] || _limit="timeout --foreground $vm_time"
	if [ "$_terminal" = stdio ]; then
		# Not QEMU's own stdio: at the end of its input it would block the guest's output too. Held open here, the
		# pipe ends when the machine has, started or not.
		mkfifo "$VM/output"
		exec 9<> "$VM/output"
		cat "$VM/output" 9>&- &
	fi
	_rc=0
	# shellcheck disable=SC2086 # a command and its arguments
	(cd "$VM" && exec $_limit "$@" 2> qemu.err 9>&-) || _rc=$?
	rm -f "$VM/kernel" "$VM/initramfs" "$VM/disk"
	if [ "$_terminal" = stdio ]; then
		exec 9>&-
		wait $!
	fi
	return $_rc
}

# vm_ended DIR: did the machine reach the end of its plan, with no complaint? Otherwise say what happened; the console's
# log stays in DIR.
vm_ended()
{
	if grep -qx end "$VM/verdict" 2> /dev/null && ! grep -q '^fatal \|^splat ' "$VM/verdict"; then
		return 0
	fi
	grep '^fatal \|^splat ' "$VM/verdict" 2> /dev/null || :
	if ! grep -qx end "$VM/verdict" 2> /dev/null && ! grep -q '^fatal ' "$VM/verdict"; then
		echo "the machine died or ran out of time; its console from the first complaint on:"
		grep -v "TCG doesn.t support" "$VM/qemu.err" || :
		awk '/WARNING:|BUG:|Oops|INFO: |Kernel panic|general protection/ { on = 1 } on && n++ < 40' \
			"$VM/console" 2> /dev/null
	fi
	echo "console: $1/console"
	return 1
}

cmd_boot()
{
	if [ "${1:-}" = --kernel ] && [ $# -ge 2 ]; then
		kernel_take "$2"
		shift 2
	fi
	have_kernel
	vm_new
	trap 'rm -rf "$VM"' EXIT
	vm_time=0
	_params='' _shell=''
	while [ $# -gt 0 ]; do
		case $1 in
		--param|--append|--file|--mem|--time)
			[ $# -ge 2 ] || die "boot: $1 needs a value" ;;
		esac
		case $1 in
		--param)	_params="$_params $2"; shift ;;
		--append)	vm_append="$vm_append $2"; shift ;;
		--file)		vm_file "$2"; shift ;;
		--mem)		vm_mem=$2; shift ;;
		--time)		vm_time=$2; shift ;;
		--shell)	_shell=1 ;;
		--)		shift; break ;;
		-*)		die "boot: no option '$1'; see 'wb help'" ;;
		*)		break ;;
		esac
		shift
	done
	_terminal=stdio
	if [ -t 0 ] && [ -t 1 ]; then
		_terminal=tty
		_size=$(stty size)
		vm_plan env "LINES=${_size% *}"
		vm_plan env "COLUMNS=${_size#* }"
		vm_plan env "TERM=${TERM:-linux}"
	fi
	vm_plan env PATH=/bin
	vm_plan env HOME=/
	# shellcheck disable=SC2086 # a list of parameters
	vm_kvm $_params
	vm_file "$(command -v busybox)" busybox
	for _applet in sh ls cat dmesg mount ps grep; do
		echo "slink /bin/$_applet busybox 777 0 0" >> "$VM/cpio"
	done
	if [ -n "$_shell" ] || [ $# -eq 0 ]; then
		[ $_terminal = tty ] || die "boot: a shell needs a terminal"
		note "a shell in the machine; 'exit' ends it. busybox --list names its commands"
		set -- /bin/sh
	else
		vm_file "$(command -v "$1" || echo "$1")"
		_program=/bin/$(basename "$1")
		shift
		set -- "$_program" "$@"
	fi
	if [ $_terminal = tty ]; then
		vm_plan tty program 0 "$@"
	else
		vm_plan run program 0 "$@"
	fi
	vm_kvm_unload
	_stty=
	[ $_terminal != tty ] || _stty=$(stty -g)
	_rc=0
	vm_run $_terminal || _rc=$?
	[ -z "$_stty" ] || stty "$_stty"
	vm_ended "$VM" >&2 || {
		trap - EXIT
		exit 125
	}
	exit "$(awk '$1 == "exit" && $2 == "program" { print $3 }' "$VM/verdict")"
}
