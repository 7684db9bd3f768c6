package banger

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Units of a size in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)

var units = []struct {
	suffixes []string
	bytes    int64
}{
	{[]string{"kib", "k"}, KiB},
	{[]string{"mib", "m"}, MiB},
	{[]string{"gib", "g"}, GiB},
	{[]string{"tib", "t"}, TiB},
}

// ParseSize reads a size with a unit, such as 512M, 8G or 8GiB, in bytes. A
// bare number is a usage error: nobody knows its unit.
func ParseSize(s string) (int64, error) {
	lower := strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		for _, suffix := range u.suffixes {
			if digits, ok := strings.CutSuffix(lower, suffix); ok {
				n, err := strconv.ParseInt(digits, 10, 64)
				if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
					return 0, Errorf(CodeUsage, "size %q is not valid", s).WithHint("512M or 8G")
				}
				return n * u.bytes, nil
			}
		}
	}
	return 0, Errorf(CodeUsage, "size %q has no unit", s).WithHint("512M or 8G")
}

// ParseMemory reads a memory size in MiB. A bare number means MiB.
func ParseMemory(s string) (int64, error) {
	if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	n, err := ParseSize(s)
	return n / MiB, err
}

// FormatSize writes bytes the way people say it: 8G, 512M, 1.5G.
func FormatSize(n int64) string {
	for i := len(units) - 1; i >= 0; i-- {
		if u := units[i]; n >= u.bytes {
			suffix := strings.ToUpper(u.suffixes[1])
			if n%u.bytes == 0 {
				return fmt.Sprintf("%d%s", n/u.bytes, suffix)
			}
			return fmt.Sprintf("%.1f%s", float64(n)/float64(u.bytes), suffix)
		}
	}
	return fmt.Sprintf("%dB", n)
}
