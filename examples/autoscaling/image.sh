#!/bin/sh
# Lays out, in the directory that is named, what `caravel image build` makes the image of web.yaml from: busybox (Debian's
# busybox-static), and a page each of whose answers costs some CPU.
set -eu
mkdir -p "$1/bin" "$1/w/cgi-bin"
cp /bin/busybox "$1/bin/"
ln -sf busybox "$1/bin/sh"
cat > "$1/w/cgi-bin/burn" <<'END'
#!/bin/sh
i=0
while [ $i -lt 20000 ]; do i=$((i+1)); done
printf 'Content-Type: text/plain\r\n\r\nok\n'
END
chmod 755 "$1/w/cgi-bin/burn"
printf 'FROM scratch\nCOPY bin /bin\nCOPY w /w\nCMD ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/w"]\n' > "$1/Containerfile"
