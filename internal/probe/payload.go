package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// debugPort is where QEMU's isa-debug-exit device listens. Writing v to it ends
// QEMU with exit code 2v+1.
const debugPort = 0xf4

// kernelCode is the exit code of tinyKernel, which writes 0x2b to debugPort.
const kernelCode = 2*0x2b + 1

// initWord is what initProgram writes on the console.
const initWord = "banger probe: init\r\n"

// initProgram is a whole Linux program: it says initWord and powers off. A
// kernel that gets as far as running it as /init can run any.
//
//	mov  eax, 1          ; write(1, word, len)
//	mov  edi, 1
//	lea  rsi, [rip+word]
//	mov  edx, len
//	syscall
//	mov  eax, 169        ; reboot(…, RB_POWER_OFF)
//	mov  edi, 0xfee1dead
//	mov  esi, 0x28121969
//	mov  edx, 0x4321fedc
//	syscall
//	mov  eax, 60         ; exit: init's end is a panic, which ends QEMU too
//	mov  edi, 1
//	syscall
func initProgram() []byte {
	code := []byte{
		0xb8, 0x01, 0x00, 0x00, 0x00,
		0xbf, 0x01, 0x00, 0x00, 0x00,
		0x48, 0x8d, 0x35, 0x29, 0x00, 0x00, 0x00,
		0xba, byte(len(initWord)), 0x00, 0x00, 0x00,
		0x0f, 0x05,
		0xb8, 0xa9, 0x00, 0x00, 0x00,
		0xbf, 0xad, 0xde, 0xe1, 0xfe,
		0xbe, 0x69, 0x19, 0x12, 0x28,
		0xba, 0xdc, 0xfe, 0x21, 0x43,
		0x0f, 0x05,
		0xb8, 0x3c, 0x00, 0x00, 0x00,
		0xbf, 0x01, 0x00, 0x00, 0x00,
		0x0f, 0x05,
	}
	return elf64(image{at: 0x400000, code: append(code, initWord...)})
}

// tinyKernel is what is booted when no real kernel is at hand yet. It enters as
// QEMU enters a Linux vmlinux (PVH: protected mode, no paging, at its physical
// address), and goes on to 64-bit mode with no-execute paging, as Linux does.
//
//	       cli
//	       mov   edi, 0x200000      ; three page tables there, zeroed
//	       xor   eax, eax
//	       mov   ecx, 0x800
//	       cld
//	       rep   stosd
//	       mov   [0x200000], 0x201003
//	       mov   [0x201000], 0x202003
//	       mov   [0x202000], 0x83   ; the first 2 MiB, as they are
//	       mov   eax, cr4
//	       or    eax, 0x20          ; PAE
//	       mov   cr4, eax
//	       mov   eax, 0x200000
//	       mov   cr3, eax
//	       mov   ecx, 0xc0000080    ; EFER
//	       rdmsr
//	       or    eax, 0x900         ; LME, NXE
//	       wrmsr
//	       mov   eax, cr0
//	       or    eax, 0x80000000    ; paging
//	       mov   cr0, eax
//	       lgdt  [gdtr]
//	       jmp   8:long
//	long:  mov   edx, 0xf4          ; 64-bit from here
//	       mov   al, 0x2b
//	       out   dx, al
//	stop:  hlt
//	       jmp   stop
//	gdt:   dq 0, 0x00af9b000000ffff ; 64-bit code
//	gdtr:  dw 15
//	       dd gdt
func tinyKernel() []byte {
	code := []byte{
		0xfa,
		0xbf, 0x00, 0x00, 0x20, 0x00,
		0x31, 0xc0,
		0xb9, 0x00, 0x08, 0x00, 0x00,
		0xfc,
		0xf3, 0xab,
		0xc7, 0x05, 0x00, 0x00, 0x20, 0x00, 0x03, 0x10, 0x20, 0x00,
		0xc7, 0x05, 0x00, 0x10, 0x20, 0x00, 0x03, 0x20, 0x20, 0x00,
		0xc7, 0x05, 0x00, 0x20, 0x20, 0x00, 0x83, 0x00, 0x00, 0x00,
		0x0f, 0x20, 0xe0,
		0x83, 0xc8, 0x20,
		0x0f, 0x22, 0xe0,
		0xb8, 0x00, 0x00, 0x20, 0x00,
		0x0f, 0x22, 0xd8,
		0xb9, 0x80, 0x00, 0x00, 0xc0,
		0x0f, 0x32,
		0x0d, 0x00, 0x09, 0x00, 0x00,
		0x0f, 0x30,
		0x0f, 0x20, 0xc0,
		0x0d, 0x00, 0x00, 0x00, 0x80,
		0x0f, 0x22, 0xc0,
		0x0f, 0x01, 0x15, 0, 0, 0, 0, // lgdt, patched
		0xea, 0, 0, 0, 0, 0x08, 0x00, // jmp, patched
	}
	const at = 0x100000
	header := elfHeaderSize + 2*elfProgramSize + len(pvhNote(0))
	start := uint32(at + header)
	long := len(code)
	code = append(code, 0xba, debugPort, 0x00, 0x00, 0x00, 0xb0, 0x2b, 0xee, 0xf4, 0xeb, 0xfd)
	for len(code)%8 != 0 {
		code = append(code, 0x90)
	}
	gdt := len(code)
	code = binary.LittleEndian.AppendUint64(code, 0)
	code = binary.LittleEndian.AppendUint64(code, 0x00af9b000000ffff)
	gdtr := len(code)
	code = binary.LittleEndian.AppendUint16(code, 15)
	code = binary.LittleEndian.AppendUint32(code, start+uint32(gdt))
	binary.LittleEndian.PutUint32(code[long-11:], start+uint32(gdtr))
	binary.LittleEndian.PutUint32(code[long-6:], start+uint32(long))
	return elf64(image{at: at, note: pvhNote(start), code: code})
}

// pvhNote is the ELF note by which QEMU finds a kernel's 32-bit entry
// (XEN_ELFNOTE_PHYS32_ENTRY, as in Linux's arch/x86/platform/pvh).
func pvhNote(entry uint32) []byte {
	var b []byte
	for _, v := range []uint32{4, 4, 18} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, "Xen\x00"...)
	return binary.LittleEndian.AppendUint32(b, entry)
}

// Sizes of ELF64 headers in bytes.
const (
	elfHeaderSize  = 64
	elfProgramSize = 56
)

// image is a program that is one segment: headers, note, code.
type image struct {
	at         uint64
	note, code []byte
}

// elf64 writes im as an executable that begins with its code.
func elf64(im image) []byte {
	segments := uint16(1)
	if im.note != nil {
		segments = 2
	}
	noteAt := uint64(elfHeaderSize + int(segments)*elfProgramSize)
	size := noteAt + uint64(len(im.note)+len(im.code))
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			// A bytes.Buffer takes everything.
			_ = binary.Write(&b, binary.LittleEndian, v)
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	entry := im.at + noteAt + uint64(len(im.note))
	put(uint16(2), uint16(62), uint32(1), entry, uint64(elfHeaderSize), uint64(0), uint32(0))
	put(uint16(elfHeaderSize), uint16(elfProgramSize), segments, uint16(0), uint16(0), uint16(0))
	put(uint32(1), uint32(7), uint64(0), im.at, im.at, size, size, uint64(0x1000))
	if im.note != nil {
		n := uint64(len(im.note))
		put(uint32(4), uint32(4), noteAt, im.at+noteAt, im.at+noteAt, n, n, uint64(4))
	}
	b.Write(im.note)
	b.Write(im.code)
	return b.Bytes()
}

// initramfs is a cpio archive (newc) of initProgram as /init, and of the console
// that the kernel opens for it.
func initramfs() []byte {
	var b bytes.Buffer
	entry := func(name string, mode, rdev int, body []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			1, mode, 0, 0, 1, 0, len(body), 0, 0, rdev>>8, rdev&0xff, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(body)
		pad(&b)
	}
	entry("dev", 0o040755, 0, nil)
	entry("dev/console", 0o020600, 5<<8|1, nil)
	entry("init", 0o100755, 0, initProgram())
	entry("TRAILER!!!", 0, 0, nil)
	return b.Bytes()
}

// pad fills b to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
