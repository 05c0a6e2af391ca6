package guard

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// logged runs test with a limited log and returns what was written, without times.
func logged(t *testing.T, test func(t *testing.T, log *slog.Logger)) string {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		handler := slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		})
		test(t, slog.New(LimitLog(handler)))
		time.Sleep(time.Minute) // until the summary
		synctest.Wait()
	})
	return out.String()
}

func TestLimitLog(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		for i := range 1000 {
			log.Warn("malformed frame", "n", i)
			log.Debug("frame", "n", i)
		}
		log.Info("closed with 4100")
		log.Info("closed with 4200")
	})
	if n := strings.Count(got, `msg="malformed frame"`); n != maxRepeats {
		t.Errorf("%d lines, want %d", n, maxRepeats)
	}
	if n := strings.Count(got, "msg=frame"); n != 1000 {
		t.Errorf("%d debug lines, want 1000", n)
	}
	if !strings.Contains(got, "4100") || !strings.Contains(got, "4200") {
		t.Error("a message that was not repeated is missing")
	}
	if want := `level=WARN msg="suppressed repeated messages in the last minute" "malformed frame"=995` + "\n"; !strings.HasSuffix(got, want) {
		t.Errorf("the log ends with %q, want %q", got[max(0, len(got)-200):], want)
	}
}

// During an attack, the log gets only a few lines per minute, and the counts are complete.
func TestLimitLogForADay(t *testing.T) {
	const day = 24 * 60
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		for range day * 60 {
			log.Info("click rejected")
			time.Sleep(time.Second)
		}
	})
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) > day*(maxRepeats+1)+2 {
		t.Errorf("%d lines, want at most %d", len(lines), day*(maxRepeats+1)+2)
	}
	total := 0
	for _, line := range lines {
		var n int
		if _, counts, ok := strings.Cut(line, `"click rejected"=`); ok {
			fmt.Sscan(counts, &n)
		} else {
			n = 1
		}
		total += n
	}
	if total != day*60 {
		t.Errorf("%d messages are accounted for, want %d", total, day*60)
	}
}

func TestNoSummaryWithoutSuppressedMessages(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		for range maxRepeats {
			log.Info("hello")
		}
	})
	if strings.Count(got, "\n") != maxRepeats {
		t.Errorf("the log: %s", got)
	}
}

// Messages from net/http count as one if their text before the peer's address is the same.
func TestLimitLogOfServer(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		server := newServer(log, ok, 1)
		for i := range 100 {
			server.ErrorLog.Printf("http: TLS handshake error from 192.0.2.%d:%d: EOF", i, 1000+i)
			server.ErrorLog.Printf("http: TLS handshake error from [2001:db8::%x]:%d: EOF", i, 1000+i)
			server.ErrorLog.Printf("http: panic serving 192.0.2.%d:%d: oh no\n%s", i, 1000+i, strings.Repeat("stack\n", 100))
		}
	})
	if n := strings.Count(got, "\n"); n != 2*maxRepeats+1 {
		t.Errorf("%d lines, want %d", n, 2*maxRepeats+1)
	}
	for _, want := range []string{`"http: TLS handshake error from "=195`, `"http: panic serving "=95`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the summary: %s", want, got[max(0, len(got)-300):])
		}
	}
}

// Loggers made by With and WithGroup share one limit and keep their attributes and groups.
func TestLimitLogWith(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		for i := range 10 {
			log.With("request", i).WithGroup("peer").Info("slow subscriber dropped", "n", i)
		}
	})
	if !strings.Contains(got, `msg="slow subscriber dropped" request=0 peer.n=0`) {
		t.Errorf("the attributes are missing: %s", got)
	}
	if n := strings.Count(got, "peer.n="); n != maxRepeats || !strings.Contains(got, `minute" "slow subscriber dropped"=5`) {
		t.Errorf("%d lines, want %d and a summary: %s", n, maxRepeats, got)
	}
}

// Memory and log stay bounded even if all messages differ.
func TestLimitLogOfManyMessages(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		for i := range 1000 {
			log.Info(fmt.Sprint("message ", i))
		}
	})
	if n, most := strings.Count(got, "\n"), maxMessages+maxRepeats+1; n > most {
		t.Errorf("%d lines, want at most %d", n, most)
	}
	if want := fmt.Sprintf("others=%d\n", 1000-maxMessages-maxRepeats); !strings.HasSuffix(got, want) {
		t.Errorf("the log ends with %q, want %q", got[len(got)-100:], want)
	}
}

func TestLimitLogConcurrently(t *testing.T) {
	got := logged(t, func(t *testing.T, log *slog.Logger) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 1000 {
					log.With("i", i).Info("click rejected")
				}
			})
		}
		wg.Wait()
	})
	if !strings.Contains(got, fmt.Sprintf(`"click rejected"=%d`, 8000-maxRepeats)) || strings.Count(got, "\n") != maxRepeats+1 {
		t.Errorf("the log: %s", got)
	}
}

func BenchmarkLimitLog(b *testing.B) {
	log := slog.New(LimitLog(slog.NewTextHandler(&bytes.Buffer{}, nil)))
	for b.Loop() {
		log.Info("click rejected")
	}
}
