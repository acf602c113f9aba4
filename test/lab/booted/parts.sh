# Makes what a machine is booted with, in the directory parts of a Debian: its firmware,
# systemd's boot loader and bootctl, Debian's kernel for virtual machines, and two
# initrds: one that finds the disks, and one without a driver for anything.
unpacked=$(mktemp -d)
cd "$unpacked"
apt-get update -q
# _apt, who downloads, may not write here otherwise.
chmod 0777 .
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
apt-get download -q "$kernel" systemd-boot-efi systemd-boot-tools ovmf busybox-static
for archive in *.deb; do dpkg-deb -x "$archive" .; done

mkdir /parts
cp usr/share/OVMF/OVMF_CODE_4M.fd /parts/firmware.fd
cp usr/share/OVMF/OVMF_VARS_4M.fd /parts/variables.fd
cp usr/lib/systemd/boot/efi/systemd-bootx64.efi /parts/systemd-boot.efi
cp usr/bin/bootctl /parts/bootctl
cp boot/vmlinuz-* /parts/kernel

busybox=$unpacked/usr/bin/busybox
mkdir -p initrd/bin initrd/dev initrd/proc initrd/sys initrd/run initrd/root initrd/modules
cp "$busybox" initrd/bin/
# In the order in which they need each other.
modules="virtio_blk failover net_failover virtio_net fat vfat nls_cp437 nls_ascii efivarfs"
for module in $modules; do
	xz -dc "$(find usr/lib/modules -name "$module.ko.xz")" >"initrd/modules/$module.ko"
done
{
	echo '#!/bin/busybox sh'
	echo "modules='$modules'"
	cat <<'EOF'
set -eu
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs -o mode=0755 run /run
for module in $modules; do $b insmod "/modules/$module.ko"; done
root=
init=/sbin/init
for parameter in $($b cat /proc/cmdline); do
	case $parameter in
	root=*) root=${parameter#root=} ;;
	init=*) init=${parameter#init=} ;;
	esac
done
$b mount -t ext4 "$root" /root
$b mount -t vfat -o umask=0077 /dev/vda1 /root/boot
for dir in dev proc sys run; do $b mount --move "/$dir" "/root/$dir"; done
exec $b switch_root /root "$init"
EOF
} >initrd/init
chmod 0755 initrd/init
pack() { (cd "$1" && find . | "$busybox" cpio -o -H newc -R 0:0 | gzip -1); }
pack initrd >/parts/initrd
mkdir nothing
pack nothing >/parts/initrd-without-drivers
