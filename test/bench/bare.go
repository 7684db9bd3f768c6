package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/unixsock"
)

// bareTime bounds one boot of a bare machine.
const bareTime = 2 * time.Minute

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bareMachine is a VM of QEMU alone: machine, processor and kernel command line
// of the driver, and no more devices than it needs.
type bareMachine struct {
	shape
	vmlinux, initrd string
	// base, if set, is a disk that the guest reads, and the guest has the two
	// ports of the guest link.
	base string
}

// The sockets of a bare machine.
const (
	bareConsole = iota
	bareCtl
	bareData
)

// firstFile is the number of the first file that a child gets from os/exec.
const firstFile = 3

func (m bareMachine) arguments() []string {
	socket := func(id string, n int) []string {
		return []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, firstFile+n)}
	}
	args := append(qemu.BaseArguments(m.Accel),
		"-smp", strconv.Itoa(m.VCPU), "-m", strconv.FormatInt(m.MemoryMiB, 10)+"M",
		"-kernel", m.vmlinux, "-initrd", m.initrd, "-append", qemu.CommandLine(m.Accel))
	args = append(args, socket("console", bareConsole)...)
	args = append(args, "-device", "isa-serial,chardev=console")
	if m.base == "" {
		return args
	}
	args = append(args,
		"-blockdev", "driver=raw,node-name=base,read-only=on,file.driver=file,file.filename="+strings.ReplaceAll(m.base, ",", ",,"),
		"-device", "virtio-blk-pci,drive=base", "-device", "virtio-serial-pci,max_ports=3")
	args = append(args, socket("ctl", bareCtl)...)
	args = append(args, "-device", "virtserialport,nr=1,chardev=ctl,name="+qemu.PortCtl)
	args = append(args, socket("data", bareData)...)
	return append(args, "-device", "virtserialport,nr=2,chardev=data,name="+qemu.PortData)
}

// bareVM is one that runs.
type bareVM struct {
	dir    string
	cmd    *exec.Cmd
	stderr bytes.Buffer
	// conns are the ends of its sockets.
	conns []net.Conn
	// console reads conns[bareConsole].
	console *bufio.Scanner
}

// start starts QEMU. When ctx ends, so does the VM. The caller closes it.
func (m bareMachine) start(ctx context.Context) (_ *bareVM, err error) {
	dir, err := os.MkdirTemp("", "banger-bare-")
	if err != nil {
		return nil, err
	}
	v := &bareVM{dir: dir}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	bin, err := qemu.FindBinary("")
	if err != nil {
		return nil, err
	}
	paths := []string{bareConsole: filepath.Join(dir, "console"), bareCtl: filepath.Join(dir, "ctl"), bareData: filepath.Join(dir, "data")}
	sockets, err := vmmproc.Listen(paths)
	if err != nil {
		return nil, err
	}
	defer vmmproc.CloseAll(sockets)
	for _, path := range paths {
		conn, err := unixsock.Dial(ctx, path)
		if err != nil {
			return nil, err
		}
		v.conns = append(v.conns, conn)
	}
	v.console = bufio.NewScanner(v.conns[bareConsole])
	cmd := exec.CommandContext(ctx, bin, m.arguments()...)
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = dir, sockets, &v.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	v.cmd = cmd
	return v, nil
}

// await reads the console up to a line that ends with word.
func (v *bareVM) await(word string) error {
	var said []string
	for v.console.Scan() {
		line := strings.TrimSpace(v.console.Text())
		if strings.HasSuffix(line, word) {
			return nil
		}
		said = append(said, line)
	}
	err := v.console.Err()
	if err == nil {
		err = errors.New("its console ended")
	}
	return fmt.Errorf("bare VM: %w\n%s", err, strings.Join(said[max(0, len(said)-10):], "\n"))
}

// close powers it off and removes its files. It returns what QEMU complained
// of, if it had ended before.
func (v *bareVM) close() error {
	for _, conn := range v.conns {
		conn.Close()
	}
	var err error
	if v.cmd != nil {
		v.cmd.Process.Kill()
		v.cmd.Wait()
		if text := strings.TrimSpace(v.stderr.String()); v.cmd.ProcessState.Exited() && text != "" {
			err = fmt.Errorf("QEMU: %s", text)
		}
	}
	return errors.Join(err, os.RemoveAll(v.dir))
}

// boot measures from the start of QEMU to the word of /init, in ms.
func (m bareMachine) boot(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	defer cancel()
	start := time.Now()
	v, err := m.start(ctx)
	if err != nil {
		return 0, err
	}
	err = v.await(leastWord)
	took := millis(time.Since(start))
	return took, errors.Join(err, v.close())
}

// leastWord is what leastInit writes on the console, and a line end.
const leastWord = "bench: init"

// writeLeastInit makes the smallest program that can be /init.
//
//	      mov  eax, 1          ; write(1, word, len)
//	      mov  edi, 1
//	      lea  rsi, [rip+word]
//	      mov  edx, len
//	      syscall
//	stay: mov  eax, 34         ; pause()
//	      syscall
//	      jmp  stay
func writeLeastInit(path string) error {
	const word = leastWord + "\n"
	code := []byte{
		0xb8, 0x01, 0x00, 0x00, 0x00,
		0xbf, 0x01, 0x00, 0x00, 0x00,
		0x48, 0x8d, 0x35, 0x10, 0x00, 0x00, 0x00,
		0xba, byte(len(word)), 0x00, 0x00, 0x00,
		0x0f, 0x05,
		0xb8, 0x22, 0x00, 0x00, 0x00,
		0x0f, 0x05,
		0xeb, 0xf7,
	}
	code = append(code, word...)
	const at, headers = 0x400000, 64 + 56 // sizes of the two headers
	size := uint64(headers + len(code))
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: at + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 0x1000,
	}
	var b bytes.Buffer
	for _, part := range []any{head, segment, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o755)
}
