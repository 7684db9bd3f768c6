package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
)

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
