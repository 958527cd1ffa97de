# The kinds of files that a build directory can hold and a careless copy gets wrong. Run in the unpacked source.

echo "a file" > plain
ln plain hard-link
mkdir -p far/down/in/the/tree
ln plain far/down/in/the/tree/hard-link

ln -s plain link
ln -s ../nowhere dangling-link
ln -s /etc/passwd absolute-link
ln -s far/down directory-link
ln -s . loop

truncate -s 64M sparse
printf end | dd of=sparse bs=1M seek=63 conv=notrunc status=none

mkfifo fifo

printf '#!%s\necho executed\n' "$SHELL" > executable
chmod 0755 executable
echo "nobody may read this" > unreadable
chmod 0000 unreadable

touch -d '2001-02-03 04:05:06.789 UTC' old
mkdir empty

mkdir odd-names
echo newline > $'odd-names/new\nline'
echo dash > odd-names/-rf
echo space > 'odd-names/ a space '
echo quote > "odd-names/it's \"quoted\" \$(touch pwned) \`touch pwned\`"
echo utf-8 > odd-names/grüße
echo not-utf-8 > $'odd-names/not-\xff-utf-8'
echo backslash > 'odd-names/back\slash'

# Last, since nothing can be put into it afterwards.
mkdir -p read-only-directory/inner
echo "a file" > read-only-directory/file
chmod 0555 read-only-directory
touch -d '2001-02-03 04:05:06 UTC' far/down
